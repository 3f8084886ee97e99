"""Backbones that see small defects: SPot-the-Difference pre-trained weights as ordinary timm models.

Importing registers the catalog's weights with timm: `timm.create_model("resnet50_spd", pretrained=True)`.
"""

from spd_weights.errors import SpdError
from spd_weights.registry import register

__version__ = "0.1.0"
__all__ = ["SpdError", "__version__"]

register()
