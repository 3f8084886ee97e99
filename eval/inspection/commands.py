"""The command lines of `python -m eval fit`, `predict` and `export`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from spd_weights.errors import FAILED, SpdError, program

from ..data.datasets import load_categories
from ..data.download import unpacked
from ..detectors.methods import DETECTORS
from ..options import add_settings, finite, not_negative, positive, rate, settings_of
from ..protocols import check_training
from ..report.terminal import grid
from .export import FORMATS, TOLERANCE, export
from .fit import DEFAULT_METHOD, DEFAULT_WEIGHTS, MINIMUM, FitOptions, Fitted, fit
from .photographs import find_photographs
from .predict import Summary, predict
from .progress import bar, peak_memory
from .scores import LINES, TABLE, Row
from .threshold import FALSE_ALARMS
from .tradeoff import TradeOff, write_trade_off

ABOVE = 3
"""Exit code if a photograph is above the threshold."""

_FEW = 50  # normal photographs


def fit_command(argv: list[str]) -> None:
    """Fit a detector and print a summary."""
    given = _fit_parser().parse_args(argv)
    console = Console(highlight=False)
    normal = _normal(given)
    if given.masks and not given.defects:
        raise SpdError("--masks are the masks of --defects; name these photographs, too")
    defects = find_photographs(given.defects)
    options = FitOptions(
        given.weights, given.method, settings_of(given), given.tiles, given.false_alarms, given.seed, given.workers,
        given.adapt,
    )  # fmt: skip
    with bar() as progress:
        fitted = fit(normal, given.save, options, defects=defects, masks=given.masks, progress=progress)
    for line in _summary(fitted, given.save):
        console.print(escape(line), soft_wrap=True)
    if fitted.trade_off:
        _print_trade_off(fitted.trade_off, fitted.threshold.value, given.save, console)
    console.print(escape(f"next: {program('eval predict')} {given.save} NEW_PHOTOGRAPHS --out scores"), soft_wrap=True)


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
    parser.add_argument(
        "--defects",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="photographs of defective parts, which show what each threshold would miss; nothing is learned from them",
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="masks of --defects, to measure how well maps outline them"
    )
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="*.safetensors; replaced if it exists")
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
    parser.add_argument(
        "--adapt",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="adapt features to these parts if that helps much with synthetic defects; see docs/own_parts.md (no)",
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
        *filter(None, [about["adaptation"]["note"]]),
        f"threshold {about['threshold']:.6g}: {about['threshold_note']}",
        f"detector: {save} ({size:.1f} MiB)",
    ]
    return lines


def _print_trade_off(found: TradeOff, chosen: float, save: Path, console: Console) -> None:
    good, bad = len(found.normal), len(found.defective)
    view = grid("threshold", f"false alarms, of {good}", f"missed, of {bad}")
    for point in sorted({*found.table(), found.at(chosen)}, key=lambda point: point.threshold):
        mark = " *" if point.threshold == chosen else ""
        view.add_row(f"{point.threshold:.6g}{mark}", f"{point.false_alarms}", f"{point.missed}")
    console.print(view)
    console.print("* the detector's threshold; predict --threshold takes another")
    console.print(f"a defective part scores higher than a good one in {100 * found.auroc:.1f} % of pairs (image AUROC)")
    if found.pixel_ap is not None:
        console.print(f"pixel AP on the photographs with a mask: {100 * found.pixel_ap:.1f} %")
    files = write_trade_off(save, found, chosen)
    console.print(escape(f"trade-off: {', '.join(map(str, files))}"), soft_wrap=True)


def predict_command(argv: list[str]) -> int:
    """Score photographs; return 3 if one is above the threshold, otherwise 2 if one could not be read."""
    given = _predict_parser().parse_args(argv)
    console = Console(highlight=False)

    def report(row: Row) -> None:
        if row["error"]:
            console.print(f"{'':12}  not scored  {escape(row['error'])}", soft_wrap=True)
            return
        mark = "above" if row["above"] else ""
        console.print(f"{row['score']:12.6g}  {mark:10}  {escape(row['image'])}", soft_wrap=True)

    done = predict(
        given.detector, given.images, given.out, weights=given.weights, threshold=given.threshold,
        workers=given.workers, watch=given.watch, report=report,
    )  # fmt: skip
    for line in _outcome(done, given.out):
        console.print(escape(line), soft_wrap=True)
    if done.errors:
        print(f"error: {len(done.errors)} of {len(done.rows)} photographs were not scored", file=sys.stderr)
    return ABOVE if done.above else FAILED if done.errors else 0


def _predict_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("eval predict"),
        description=f"Score photographs with a detector saved by `{program('eval fit')}`. Run the same command again "
        "to resume after an interruption.",
        epilog=f"Exit code: 0 if all photographs are below the threshold, {ABOVE} if one is above it, {FAILED} after "
        "an error or if a photograph could not be read and none is above.",
    )
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="the safetensors file")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="PATH", help="photographs, folders of them, or patterns"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="for scores.jsonl, scores.csv, pictures/ with heat maps, and gallery.html",
    )
    parser.add_argument("--threshold", type=finite, metavar="SCORE", help="instead of the detector's own")
    parser.add_argument(
        "--watch", action="store_true", help="wait for new photographs in the folders until Ctrl-C, for a camera"
    )
    parser.add_argument("--workers", type=not_negative, default=1, metavar="N", help="processes that decode (1)")
    parser.add_argument("--weights", metavar="W", help="the backbone, if it is no longer under its recorded name")
    return parser


def _outcome(done: Summary, out: Path) -> list[str]:
    lines = []
    if earlier := len(done.rows) - done.scored:
        lines.append(f"{earlier} photographs had been scored before and were not scored again")
    count = len(done.rows) - len(done.errors)
    if done.threshold is not None:
        lines.append(f"{done.above} of {count} photographs are above the threshold {done.threshold:.6g}")
    if done.seconds_per_image is not None:
        memory = peak_memory()
        lines.append(
            f"{1000 * done.seconds_per_image:.0f} ms per photograph, decoding and pictures included, on {done.device}"
            + ("" if memory is None else f"; peak memory {memory:.0f} MiB")
        )
    return [*lines, f"scores: {out / LINES}, {out / TABLE}", f"gallery: {done.gallery}"]


def export_command(argv: list[str]) -> None:
    """Export a detector and print how to use it."""
    parser = argparse.ArgumentParser(
        prog=program("eval export"),
        description=f"Write a detector saved by `{program('eval fit')}` as one graph that runs without torch: the "
        "backbone, the detector and the threshold (docs/export.md).",
    )
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="the safetensors file")
    parser.add_argument("--to", choices=list(FORMATS), required=True, help="the format")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write (beside the detector)")
    parser.add_argument("--threshold", type=finite, metavar="SCORE", help="instead of the detector's own")
    parser.add_argument("--weights", metavar="W", help="the backbone, if it is no longer under its recorded name")
    given = parser.parse_args(argv)
    written = export(given.detector, given.to, given.out, given.weights, given.threshold)
    print(f"exported: {written}; its scores and maps equal the detector's to {TOLERANCE:g} of the largest")
