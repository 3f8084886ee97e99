"""A 2-class split for data without one; it depends only on file names, so it is the same everywhere."""

import hashlib
from collections.abc import Iterable

# VisA's shares per class: 60 % train in the high-shot protocol; in the few-shot protocols, k images per class are drawn
# from a pool of 20 %.
_HIGHSHOT, _POOL = 0.6, 0.2
_LARGEST_DRAW = 10


def training_names(names: Iterable[str], protocol: str) -> set[str]:
    """Choose the training images of one class; the others are test images.

    Images are ordered by the SHA-256 of their names, and the first ones train. The choice is therefore the same for
    every seed, and the few-shot pool is a subset of the high-shot training set, as in VisA. The pool holds at least
    the 10 images that `2cls_10shot` draws, unless that is more than half of the class. All this is our choice, because
    MVTec AD's layout has no training anomalies.

    Args:
        names: Distinct names of all images of one class.
        protocol: `2cls_highshot`, or one of the few-shot protocols.

    Returns:
        The names of the training images.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if protocol == "2cls_highshot":
        return set(order[: round(_HIGHSHOT * len(order))])
    return set(order[: max(round(_POOL * len(order)), min(_LARGEST_DRAW, len(order) // 2))])
