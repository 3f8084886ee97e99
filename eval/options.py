"""Command-line options that change the numbers."""

import argparse
import math
from dataclasses import fields

from .backbone.features import FEATURE_PRECISIONS
from .data.images import RESIZES
from .detectors.methods import Settings
from .detectors.padim import COVARIANCES
from .detectors.patchcore import STARTS
from .detectors.patches import PATCH_FEATURES
from .finetune.training import FREEZE, PRECISIONS, Training


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of the detectors: fields of `Settings`, with its defaults."""
    defaults = Settings()
    parser.add_argument(
        "--image-size",
        type=positive,
        default=defaults.image_size,
        metavar="PX",
        help="side of the square to which images and masks are resized (224)",
    )
    parser.add_argument(
        "--resize",
        choices=RESIZES,
        default=defaults.resize,
        help="1-class methods: square (the default) keeps the whole picture; short-crop keeps a central square of 7/8 "
        "of the shorter side, as is usual in the literature: about half of a VisA picture, without the defects outside",
    )
    parser.add_argument(
        "--feature-precision",
        choices=FEATURE_PRECISIONS,
        default=defaults.feature_precision,
        help="precision of the frozen backbone (fp32); tf32 is faster on GPUs; bf16 takes half the time where the "
        "processor supports it, but in small test sets metrics moved by a point and more (docs/evaluation.md)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        metavar="I",
        help="feature maps that all 1-class methods read, as indices into timm's feature_info (blocks of a vision "
        "transformer); -1 is the last (each method's own layers)",
    )
    _add_detector_settings(parser, defaults)


def _add_detector_settings(parser: argparse.ArgumentParser, defaults: Settings) -> None:
    """Add the options that concern one detector."""
    parser.add_argument(
        "--padim-dims",
        type=positive,
        metavar="D",
        help="feature channels that PaDiM keeps (550 of 1792 or more, otherwise 100)",
    )
    parser.add_argument(
        "--padim-covariance",
        choices=COVARIANCES,
        default=defaults.padim_covariance,
        help="full as in the paper; ledoit-wolf shrinks it, for few images; diagonal needs little memory",
    )
    parser.add_argument(
        "--coreset-ratio",
        type=_ratio,
        default=defaults.coreset_ratio,
        metavar="R",
        help="fraction of the training patches that PatchCore keeps (0.1)",
    )
    parser.add_argument(
        "--coreset-start",
        choices=STARTS,
        default=defaults.coreset_start,
        help="first patch of PatchCore's selection: random, or the one nearest to the mean (random)",
    )
    parser.add_argument(
        "--patchcore-features",
        choices=PATCH_FEATURES,
        default=defaults.patchcore_features,
        help="PatchCore's patches: concatenated as in anomalib, or pooled to 1024 numbers as in its authors' code",
    )
    parser.add_argument(
        "--patchcore-reweight",
        action="store_true",
        help="weight PatchCore's image scores by the paper's equation 7, which its authors' code leaves out",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of the 2-class methods: fields of `Training`, with its defaults."""
    defaults = Training()
    group = parser.add_argument_group(
        "2-class protocols",
        "Training has a fixed length and the last weights are used, so no test image influences it.",
    )
    for name, parse, metavar, meaning in (
        ("classifier-size", positive, "PX", "side of the classifier's square images"),
        ("unet-size", positive, "PX", "side of the U-Net's images; VisA's authors advise 800, which needs a GPU"),
        ("epochs", positive, "N", "passes over the training images"),
        ("min-steps", positive, "N", "minimum number of steps"),
        ("batch-size", positive, "N", "images per step"),
        ("lr", rate, "R", "peak learning rate of the backbone; new layers use ten times as much"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        group.add_argument(f"--{name}", type=parse, default=default, metavar=metavar, help=f"{meaning} ({default})")
    group.add_argument(
        "--freeze",
        choices=FREEZE,
        default=defaults.freeze,
        help="what stays unchanged: nothing (the default), the backbone's batch statistics, or the whole backbone",
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, default=defaults.precision, help="bf16 trains under autocast (no)"
    )


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
