"""Options of the command lines that change the numbers."""

import argparse
from dataclasses import fields

from eval.methods import Settings
from eval.padim import COVARIANCES


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a detector's scores, fields of `Settings` with its defaults."""
    defaults = Settings()
    parser.add_argument(
        "--image-size",
        type=positive,
        default=defaults.image_size,
        metavar="PX",
        help="side of the square that images and masks are resized to (224)",
    )
    parser.add_argument(
        "--padim-dims",
        type=positive,
        metavar="D",
        help="feature channels PaDiM keeps (550 of 1792 or more, 100 of fewer)",
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
        help="part of the training patches that PatchCore keeps (0.1)",
    )
    parser.add_argument(
        "--patchcore-reweight",
        action="store_true",
        help="weight PatchCore's image scores by the paper's equation 7, which its authors' code leaves out",
    )


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings among parsed options; a command without one of them keeps its default."""
    return Settings(**{field.name: getattr(given, field.name) for field in fields(Settings) if field.name in given})


def positive(text: str) -> int:
    """An option's integer above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value
