"""The ranges in which the values of options must lie."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from spd_weights.errors import SpdError

_TINY = math.ulp(0.0)  # the smallest number above 0
_NAMES: dict[tuple[float, float], str] = {
    (0, 1): "max_bad_fraction momentum patch_min_side",
    (0, math.inf): """
        alpha_sigma blur_sigma jitter keep_weight layer lr patch_jitter patch_min_pixels seed
        warmup_epochs weak_blur_sigma weak_jitter weight weight_decay workers""",
    (_TINY, 1): "crop_area patch_area weak_crop_area",
    (_TINY, math.inf): "knn_temperature max_hours patch_aspect temperature weak_crop_aspect",
    (0.01, math.inf): "timeout_minutes",
    (1, math.inf): """
        accumulate dim epochs every keep knn_neighbours log_every max_steps milestone_epochs predictor_dim projector_dim
        projector_layers queue_size steps""",
    (2, math.inf): "batch_size",
    (32, math.inf): "image_size",
}
LIMITS = {name: limits for limits, names in _NAMES.items() for name in names.split()}
"""The lowest and highest value of each number, by the field's name. Names that end in _probability lie in [0, 1]."""


def check_limits(config: Any) -> None:
    """Check every number of a configuration, a dataclass of dataclasses.

    Raises:
        SpdError: A value is out of range or not a number, or the ends of a range are in the wrong order.
    """
    for option, name, value in _numbers(config, ""):
        low, high = (0, 1) if name.endswith("_probability") else LIMITS[name]
        values = value if isinstance(value, tuple) else (value,)
        shown = f"--{option.replace('_', '-')} {' '.join(map(str, values))}"
        if not all(low <= v <= high and math.isfinite(v) for v in values):
            raise SpdError(f"{shown}: {_rule(low, high)}")
        if len(values) == 2 and values[0] > values[1]:
            raise SpdError(f"{shown}: a range is given as its lower and its upper end")


def _rule(low: float, high: float) -> str:
    above = "above 0" if low == _TINY else f"at least {low}"
    return f"it must be {above}" if high == math.inf else f"it must be {above} and at most {high}"


def _numbers(config: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """Each option, its field's name and its value, if that is a number or a fixed count of them."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{prefix}{field.name}.")
        elif field.name in ("milestones", "scales"):
            continue  # lists of any length, which have checks of their own
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield f"{prefix}{field.name}", field.name, value
