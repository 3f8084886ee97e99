"""The command lines of `python -m eval fit` and `python -m eval predict`."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from spd_weights.errors import SpdError, program

from ..data.datasets import load_categories
from ..data.download import unpacked
from ..detectors.methods import DETECTORS
from ..options import add_settings, not_negative, positive, rate, settings_of
from ..protocols import check_training
from .fit import DEFAULT_METHOD, DEFAULT_WEIGHTS, MINIMUM, FitOptions, Fitted, fit
from .photographs import find_photographs
from .predict import predict
from .progress import bar, peak_memory
from .threshold import FALSE_ALARMS

_FEW = 50  # normal photographs


def fit_command(argv: list[str]) -> None:
    """Fit a detector and print a summary."""
    given = _fit_parser().parse_args(argv)
    console = Console(highlight=False)
    normal = _normal(given)
    options = FitOptions(
        given.weights, given.method, settings_of(given), given.tiles, given.false_alarms, given.seed, given.workers
    )
    with bar() as progress:
        fitted = fit(normal, given.save, options, progress)
    for line in _summary(fitted, given.save):
        console.print(escape(line), soft_wrap=True)


def _fit_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("eval fit"),
        description="Learn what good parts look like, choose a threshold, and save both as one safetensors file.",
    )
    parser.add_argument(
        "--normal",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help=f"photographs of good parts, at least {MINIMUM}: folders (searched to any depth), patterns or files",
    )
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="the detector, *.safetensors")
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="W",
        help=f"the backbone, named as for an evaluation ({DEFAULT_WEIGHTS}, which is part of this package)",
    )
    parser.add_argument("--method", choices=list(DETECTORS), default=DEFAULT_METHOD, help=f"({DEFAULT_METHOD})")
    parser.add_argument(
        "--false-alarms",
        type=rate,
        default=FALSE_ALARMS,
        metavar="RATE",
        help="wanted rate of good parts above the threshold, as 0.01 or 1%% (1%%)",
    )
    parser.add_argument(
        "--tiles",
        type=positive,
        default=1,
        metavar="N",
        help="for photographs much larger than --image-size: see them in N x N overlapping tiles (1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the method's random draws (0)")
    parser.add_argument(
        "--workers", type=not_negative, default=1, metavar="N", help="processes that decode photographs (1)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="instead of --normal: VisA's or MVTec AD's layout")
    parser.add_argument("--category", metavar="NAME", help="with --data: the kind of object")
    add_settings(parser)
    return parser


def _normal(given: argparse.Namespace) -> list[Path]:
    """The photographs of --normal, or the normal training images of a data set's category."""
    if bool(given.normal) == bool(given.data) or bool(given.data) != bool(given.category):
        raise SpdError("name the photographs of good parts: --normal PATH, or --data DIR with --category NAME")
    if given.normal:
        return find_photographs(given.normal)
    found = load_categories(unpacked(given.data), "1cls", [given.category])
    if len(found) > 1:
        raise SpdError(f"{given.data}: {given.category} is in {len(found)} data sets; name it <data set>/<category>")
    check_training(found[0], "1cls")
    return [sample.image for sample in found[0].train]


def _summary(fitted: Fitted, save: Path) -> list[str]:
    about, size = fitted.about, save.stat().st_size / 2**20
    lines = [f"skipped: {reason}" for reason in fitted.skipped]
    if about["n_train"] < _FEW:
        lines.append(
            f"warning: {about['n_train']} photographs are few. Variation that they do not show counts as a defect, and "
            f"the rate of false alarms is uncertain; take {_FEW} or more"
        )
    memory = peak_memory()
    lines += [
        f"{about['method']} fitted on {about['n_train']} photographs in {about['seconds'] / 60:.1f} min"
        + ("" if memory is None else f", peak memory {memory:.0f} MiB"),
        f"threshold {about['threshold_hint']:.6g}: {about['threshold_note']}",
        f"detector: {save} ({size:.1f} MiB)",
        f"next: {program('eval predict')} {save} NEW_PHOTOGRAPHS --out scores",
    ]
    return lines


def predict_command(argv: list[str]) -> None:
    """Score photographs, and print scores, latency and memory."""
    parser = argparse.ArgumentParser(
        prog=program("eval predict"),
        description=f"Score photographs with a detector saved by `{program('eval fit')}`; write scores.json and heat "
        "maps.",
    )
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="the safetensors file")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for scores.json and <name>-heat.png")
    parser.add_argument("--weights", metavar="W", help="the backbone, if it is no longer under its recorded name")
    given = parser.parse_args(argv)
    content = predict(given.detector, given.images, given.out, given.weights)
    console = Console(highlight=False)
    for row in content["images"]:
        if row["score"] is not None:
            mark = "above" if row["above_hint"] else "     "
            console.print(f"{row['score']:12.6g}  {mark}  {escape(row['image'])}", soft_wrap=True)
    about = content["detector"]
    console.print(f"threshold {about['threshold_hint']:.6g}: {about['threshold_note']}", soft_wrap=True)
    if content["seconds_per_image"] is not None:
        memory = content["peak_memory_mib"]
        console.print(
            f"{1000 * content['seconds_per_image']:.0f} ms per image (median, decoding included) on "
            f"{content['device']}; peak memory {'not measured' if memory is None else f'{memory:.0f} MiB'}",
            soft_wrap=True,
        )
    console.print(f"written: {escape(str(given.out / 'scores.json'))}", soft_wrap=True)
    errors = [row["error"] for row in content["images"] if row["score"] is None]
    if errors:
        raise SpdError(f"{len(errors)} of {len(content['images'])} images were not scored: {'; '.join(errors)}")
