"""Command-line options that change the numbers."""

import argparse
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .backbone.features import FEATURE_PRECISIONS
from .data.images import RESIZES
from .detectors.methods import MAP_SIZES, METRICS, Settings
from .detectors.padim import COVARIANCES
from .detectors.patchcore import STARTS
from .detectors.patches import PATCH_FEATURES
from .finetune.training import FREEZE, PRECISIONS, Training


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of the detectors: fields of `Settings`, with its defaults."""
    add = _adder(parser, Settings())
    add("image-size", "side of the square to which images and masks are resized (224)", type=positive, metavar="PX")
    add(
        "resize",
        "1-class methods: square (the default) keeps the whole picture; short-crop keeps a central square of 7/8 of "
        "the shorter side, as is usual in the literature: about half of a VisA picture, without the defects outside",
        choices=RESIZES,
    )
    add(
        "feature-precision",
        "precision of the frozen backbone (fp32); tf32 is faster on GPUs; bf16 takes half the time where the processor "
        "supports it, but in small test sets metrics moved by a point and more (docs/evaluation.md)",
        choices=FEATURE_PRECISIONS,
    )
    add(
        "layers",
        "feature maps that all 1-class methods read, as indices into timm's feature_info (blocks of a vision "
        "transformer); -1 is the last (each method's own layers)",
        type=int,
        nargs="+",
        metavar="I",
    )
    add(
        "padim-dims",
        "feature channels that PaDiM keeps (550 of 1792 or more, otherwise 100)",
        type=positive,
        metavar="D",
    )
    add(
        "padim-covariance",
        "full as in the paper; ledoit-wolf shrinks it, for few images; diagonal needs little memory",
        choices=COVARIANCES,
    )
    add("coreset-ratio", "fraction of the training patches that PatchCore keeps (0.1)", type=_ratio, metavar="R")
    add(
        "coreset-start",
        "first patch of PatchCore's selection: random, or the one nearest to the mean (random)",
        choices=STARTS,
    )
    add(
        "patchcore-features",
        "PatchCore's patches: concatenated as in anomalib, or pooled to 1024 numbers as in its authors' code",
        choices=PATCH_FEATURES,
    )
    add(
        "patchcore-reweight",
        "weight PatchCore's image scores by the paper's equation 7, which its authors' code leaves out",
        action="store_true",
    )


def add_pixel_metrics(parser: argparse.ArgumentParser) -> None:
    """Add the options of the pixel metrics, which are fields of `Settings`, too."""
    add = _adder(parser, Settings())
    add(
        "metrics",
        "spot-diff adds the pixel metrics as the code of VisA's authors computes them, from 202 thresholds",
        choices=METRICS,
    )
    add(
        "map-size",
        "size at which pixel metrics are computed: that of the method's input (the default), or that of each mask, at "
        "which small regions do not vanish; native takes longer",
        choices=MAP_SIZES,
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of the 2-class methods: fields of `Training`, with its defaults."""
    group = parser.add_argument_group(
        "2-class protocols",
        "Training has a fixed length and the last weights are used, so no test image influences it.",
    )
    add = _adder(group, Training())
    add("classifier-size", "side of the classifier's square images (224)", type=positive, metavar="PX")
    add(
        "unet-size",
        "side of the U-Net's images (448); VisA's authors advise 800, which needs a GPU",
        type=positive,
        metavar="PX",
    )
    add("epochs", "passes over the training images (10)", type=positive, metavar="N")
    add("min-steps", "minimum number of steps (200)", type=positive, metavar="N")
    add("batch-size", "images per step (8)", type=positive, metavar="N")
    add("lr", "peak learning rate of the backbone; new layers use ten times as much (0.0001)", type=rate, metavar="R")
    add(
        "freeze",
        "what stays unchanged: nothing (the default), the backbone's batch statistics, or the whole backbone",
        choices=FREEZE,
    )
    add("precision", "bf16 trains under autocast (no)", choices=PRECISIONS)


def _adder(parser: argparse._ActionsContainer, defaults: Settings | Training) -> Callable[..., None]:
    """A function that adds the option of a field, whose default it takes from `defaults`."""

    def add(name: str, meaning: str, **kind: Any) -> None:
        parser.add_argument(f"--{name}", default=getattr(defaults, name.replace("-", "_")), help=meaning, **kind)

    return add


def training_of(given: argparse.Namespace) -> Training:
    """The `Training` from parsed options."""
    return Training(**{field.name: getattr(given, field.name) for field in fields(Training)})


def settings_of(given: argparse.Namespace) -> Settings:
    """The `Settings` from parsed options; options that the command does not have keep their defaults."""
    return Settings(**{field.name: getattr(given, field.name) for field in fields(Settings) if field.name in given})


def positive(text: str) -> int:
    """Parse an integer above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def not_negative(text: str) -> int:
    """Parse an integer from zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def finite(text: str) -> float:
    """Parse a number that is neither infinite nor NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def rate(text: str) -> float:
    """Parse a number in (0, 1), or a percentage such as 1%."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1)")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value
