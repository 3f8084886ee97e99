"""SPot-the-Difference pre-trained backbones for defect detection, as ordinary timm models.

Importing registers the catalog's weights with timm: `timm.create_model("mobilenetv2_100_spd", pretrained=True)`.
"""

from typing import TYPE_CHECKING, Any

from spd_weights.catalog import list_weights, load_results
from spd_weights.errors import SpdError
from spd_weights.registry import register

if TYPE_CHECKING:
    from spd_weights.hub import pull, verify

__version__ = "0.1.0"
__all__ = ["SpdError", "__version__", "list_weights", "load_results", "pull", "verify"]

register()


def __getattr__(name: str) -> Any:
    # Late: importing the package needs no Hub client.
    if name in ("pull", "verify"):
        from spd_weights import hub

        return getattr(hub, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
