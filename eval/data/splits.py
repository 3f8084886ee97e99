"""A 2-class split for data that come without one: cut by file names, so it is the same everywhere."""

import hashlib
from collections.abc import Iterable

# VisA's shares of either class: 60 % train in the high-shot protocol; in the few-shot protocols k images of
# either class are drawn from a pool of 20 %.
_HIGHSHOT, _POOL = 0.6, 0.2
_LARGEST_DRAW = 10


def training_names(names: Iterable[str], protocol: str) -> set[str]:
    """Which images of one class train; the others test.

    The images are ordered by the SHA-256 of their names and the first ones train. So the choice depends on
    nothing but the names, for every seed alike, and the few-shot pool lies inside the high-shot training set,
    as VisA's does. Our choice, because data in MVTec AD's layout have no training anomalies of their own: the
    pool holds at least the 10 images that `2cls_10shot` draws, where half of the class is as many.

    Args:
        names: Of all images of one class; distinct.
        protocol: `2cls_highshot`, or one of the few-shot protocols.

    Returns:
        The names of the training images.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if protocol == "2cls_highshot":
        return set(order[: round(_HIGHSHOT * len(order))])
    return set(order[: max(round(_POOL * len(order)), min(_LARGEST_DRAW, len(order) // 2))])
