"""The protocols: which methods they have, and which splits they can be measured on."""

from collections.abc import Sequence
from dataclasses import fields

from spd_weights.errors import SpdError

from .data.datasets import Category
from .detectors.methods import DETECTORS
from .finetune.training import Training
from .finetune.two_class import NETWORKS
from .predictions import Run

SHOTS = {"2cls_5shot": 5, "2cls_10shot": 10}  # training images of each class
# The methods of each protocol.
PROTOCOLS = {"1cls": tuple(DETECTORS), **dict.fromkeys(("2cls_highshot", *SHOTS), tuple(NETWORKS))}
_DEFAULT_METHODS = {"1cls": ("padim",)}


def settings_used(method: str) -> tuple[str, ...]:
    """Names of the fields of `Settings` and `Training` that change a method's numbers."""
    if method in DETECTORS:
        return ("image_size", "resize", "feature_precision", "layers", *DETECTORS[method].options, "metrics")
    others = {f"{name}_size" for name in NETWORKS if name != method}
    maps = ("map_size",) if method == "unet" else ()
    return (*(field.name for field in fields(Training) if field.name not in others), "metrics", *maps)


def repetitions(protocol: str, methods: Sequence[str], seeds: int) -> list[Run]:
    """The runs of a protocol. A method without randomness is run once, with seed 0.

    Args:
        protocol: One of `PROTOCOLS`.
        methods: Names of methods, including those of other protocols. If empty: PaDiM in 1-class, all in 2-class.
        seeds: Number of repetitions.

    Raises:
        SpdError: The protocol has none of the methods.
    """
    known = PROTOCOLS[protocol]
    chosen = [method for method in known if method in methods] if methods else _DEFAULT_METHODS.get(protocol, known)
    if not chosen:
        raise SpdError(f"--method {' '.join(methods)}: protocol {protocol} has {', '.join(known)}; add one of these")
    return [
        Run(protocol, method, seed)
        for method in chosen
        for seed in range(seeds if method not in DETECTORS or DETECTORS[method].seeded else 1)
    ]


def check(category: Category, protocol: str) -> None:
    """Refuse a split on which the protocol's metrics are undefined.

    Raises:
        SpdError: As `check_training`, or a test set without anomalies or without normal images.
    """
    check_training(category, protocol)
    where = f"{category.folder}: {category.name}"
    if not any(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no test anomaly, so nothing can be measured; add some or leave it out")
    if all(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no normal test image, so nothing can be measured; add some or leave it out")


def check_training(category: Category, protocol: str) -> None:
    """Refuse a split from which the protocol's methods cannot learn.

    Raises:
        SpdError: No training image, an anomaly in a 1-class training set, or a single class in a 2-class one.
    """
    where = f"{category.folder}: {category.name}"
    if not category.train:
        raise SpdError(f"{where} has no training image; check its train split")
    if protocol == "1cls" and any(sample.anomalous for sample in category.train):
        first = next(sample for sample in category.train if sample.anomalous)
        raise SpdError(f"{where} has the anomaly {first.image} in its 1-class training split; correct the split")
    if protocol != "1cls" and len({sample.anomalous for sample in category.train}) < 2:
        missing = "normal" if category.train[0].anomalous else "anomalous"
        raise SpdError(
            f"{where} has no {missing} training image, and {protocol} learns from both classes; "
            "add some or leave it out with --category"
        )
