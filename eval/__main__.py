"""`python -m eval`: evaluate weights, and everything around it."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from spd_weights.errors import SpdError, program, run_command, shown

from .data.download import ARCHIVES, URL_VARIABLE, download
from .inspection.commands import export_command, fit_command, predict_command
from .metrics.compare import compare
from .options import add_pixel_metrics, add_settings, add_training, not_negative, positive, settings_of, training_of
from .protocols import PROTOCOLS
from .report.comparison import add_groups, write_comparison
from .report.html import write_report
from .report.plan import plan_command
from .report.summary import summary_command
from .report.tables import match_weights
from .report.terminal import print_comparison, print_tables
from .results import read_results
from .run import Request, evaluate

_EPILOG = """
examples:
  python -m eval --weights resnet50 --data VisA --out runs/eval
        a timm model on all of VisA: image and pixel metrics of PaDiM, and runs/eval/report.html

  python -m eval --weights runs/base --weights runs/spd --data VisA --out runs/compare
        two training runs side by side; run it again with the same --out to resume after an interruption,
        or to add weights or categories to the table

  python -m eval --weights hf-hub:owner/name --data my_parts --category screw --image-size 320 --out runs/screw
        your own photographs, in MVTec AD's layout: screw/train/good, screw/test/good,
        screw/test/<defect>, screw/ground_truth/<defect>/<name>_mask.png (masks are optional)

  python -m eval --weights runs/base runs/spd --data VisA --protocol 2cls_highshot 2cls_5shot --seeds 5 --out runs/2cls
  torchrun --nproc_per_node 8 -m eval …
        2-class protocols: the backbone is fine-tuned as a classifier and as a U-Net's encoder; several
        processes share the work, and their number does not change the results

  python -m eval download visa --to VisA
        fetch VisA (1.93 GB), resumable and checked

  python -m eval compare runs/compare --baseline base
        which differences are more than chance: better, worse or undecided, with intervals

  python -m eval plan runs/compare --baseline base --difference 1
        how many categories and seeds it takes to detect a difference of 1 point

  python -m eval report runs/compare
        render the tables and report.html again from results.json, without the data

  python -m eval fit --normal good_parts/ --save part.safetensors
  python -m eval predict part.safetensors new_parts/ --out scores
        fit a detector on photographs of good parts, then use it: scores and heat maps of new photographs

Weights are a timm model name, hf-hub:<owner>/<repo>, local-dir:<folder>, a run's folder or its export/,
or random:<timm model> for an untrained network (as a baseline).
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 2 after an error that the user can fix, 3 if `predict` finds something above the threshold,
        or 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(
        lambda: _run(argv), interrupted="interrupted; finished work is kept, run the same command again to resume"
    )


def _run(argv: list[str]) -> int | None:
    """Run the command that the first word names, or an evaluation if options come first."""
    name = argv[0] if argv else "-"
    if name.startswith("-"):
        return evaluate_command(argv)
    if command := _COMMANDS.get(name):
        return command(argv[1:])
    close = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise SpdError(
        f"{program('eval')} {shown(name)}: no such command; {hint}commands are {', '.join(_COMMANDS)}, and without "
        "one, --weights, --data and --out evaluate"
    )


def evaluate_command(argv: list[str]) -> None:
    """Evaluate weights, print the tables and write the report."""
    given = _parser().parse_args(argv)
    request = Request(
        weights=given.weights,
        data=given.data,
        out=given.out,
        protocols=given.protocol,
        methods=given.method,
        categories=given.category,
        seeds=given.seeds,
        settings=settings_of(given),
        training=training_of(given),
        save_maps=given.save_maps,
        workers=given.workers,
    )
    if evaluate(request):
        _render(request.out)


def report_command(argv: list[str]) -> None:
    """Render the tables and the report again."""
    parser = argparse.ArgumentParser(
        prog=program("eval report"), description="Render the tables and report.html again from results.json."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    _render(parser.parse_args(argv).folder)


def compare_command(argv: list[str]) -> None:
    """Compare all weights with one of them."""
    parser = argparse.ArgumentParser(
        prog=program("eval compare"),
        description="Differences between all weights and one of them, paired over categories and seeds, each with a "
        "95 % interval over categories (from 6 categories) and the verdict better, worse or undecided. Prints them, "
        "writes compare.json, and adds them to report.html.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    parser.add_argument("--baseline", required=True, metavar="W", help="the weights to compare with")
    add_groups(parser)
    given = parser.parse_args(argv)
    console = Console()
    rows = read_results(given.folder)["rows"]
    baseline = match_weights(rows, given.baseline)
    comparisons = compare(rows, baseline, given.group)
    print_comparison(comparisons, console)
    written = write_comparison(given.folder, baseline, given.group, comparisons)
    console.print(f"comparison: {written}\nreport: {write_report(given.folder)}", soft_wrap=True)


def download_command(argv: list[str]) -> None:
    """Fetch a public data set."""
    parser = argparse.ArgumentParser(
        prog=program("eval download"),
        description="Fetch a public data set: VisA, 1.93 GB, CC BY 4.0. Resumes an interrupted download, checks size "
        "and sha256, and unpacks. Needs twice the archive's size on disk while it works.",
    )
    parser.add_argument("dataset", choices=sorted(ARCHIVES))
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="destination; pass it as --data afterwards"
    )
    parser.add_argument("--url", help=f"fetch the same bytes from another place (or set {URL_VARIABLE})")
    given = parser.parse_args(argv)
    archive = ARCHIVES[given.dataset]
    url = given.url or os.environ.get(URL_VARIABLE) or archive.url
    print(f"ready: {download(replace(archive, url=url), given.to)}")


def _render(folder: Path) -> None:
    console = Console()
    print_tables(read_results(folder)["rows"], console)
    console.print(f"report: {write_report(folder)}", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("eval"),
        description="Measure how well backbones find defects: with standard detectors on frozen features, or "
        "fine-tuned on defects. All metrics are exact.",
        epilog=_EPILOG.replace("python -m eval", program("eval")).replace("-m eval", f"-m {__package__}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", action="extend", nargs="+", required=True, metavar="W", help="what to evaluate; repeatable"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="VisA's or MVTec AD's layout")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for results.json and report.html")
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=list(PROTOCOLS),
        default=["1cls"],
        help="1cls learns from normal images only (the default); the others learn from both classes, from 60 %% of the "
        "images or from 5 or 10 images per class",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        choices=list(dict.fromkeys(method for protocol in PROTOCOLS.values() for method in protocol)),
        default=[],
        help="1cls: padim (the default), patchcore, patchknn, gaussian, knn; all share one pass of the backbone. 2cls: "
        "classifier scores images, unet outlines defects; by default both",
    )
    parser.add_argument("--category", action="extend", nargs="+", default=[], metavar="NAME", help="categories (all)")
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="number of repetitions (1)")
    add_settings(parser)
    add_training(parser)
    add_pixel_metrics(parser)
    parser.add_argument(
        "--save-maps",
        action="store_true",
        help="keep maps, masks and scores as one maps.npz per cell (docs/evaluation.md)",
    )
    workers = Request.workers
    parser.add_argument(
        "--workers", type=not_negative, default=workers, metavar="N", help=f"processes that decode images ({workers})"
    )
    return parser


_COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "report": report_command,
    "compare": compare_command,
    "plan": plan_command,
    "summary": summary_command,
    "download": download_command,
    "fit": fit_command,
    "predict": predict_command,
    "export": export_command,
}


if __name__ == "__main__":
    sys.exit(main())
