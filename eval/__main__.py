"""`python -m eval`: measure weights, or render a report again."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from spd_weights.errors import SpdError

from .data.download import ARCHIVES, URL_VARIABLE, download
from .inspection.commands import fit_command, predict_command
from .metrics.compare import compare
from .options import add_settings, add_training, positive, settings_of, training_of
from .protocols import PROTOCOLS
from .report.comparison import write_comparison
from .report.html import write_report
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
        two training runs side by side; give the same --out again to go on after an interruption,
        or to add weights or categories to the table

  python -m eval --weights hf-hub:owner/name --data my_parts --category screw --image-size 320 --out runs/screw
        your own photographs, laid out like MVTec AD: screw/train/good, screw/test/good,
        screw/test/<defect>, screw/ground_truth/<defect>/<name>_mask.png (masks are optional)

  python -m eval --weights runs/base runs/spd --data VisA --protocol 2cls_highshot 2cls_5shot --seeds 5 --out runs/2cls
  torchrun --nproc_per_node 8 -m eval …
        learning from defects, too: the backbone fine-tuned as a classifier and as a U-Net's encoder; several
        processes share the work, and their number changes no result

  python -m eval download visa --to VisA
        fetch VisA (1.93 GB), resumable and checked

  python -m eval compare runs/compare --baseline base
        which differences are more than chance: better, worse or undecided, with intervals

  python -m eval report runs/compare
        render the tables and report.html again from results.json, without the data

  python -m eval fit --weights runs/spd --data my_parts --category screw --method patchcore --save screw.safetensors
  python -m eval predict screw.safetensors photos/ --out runs/screw
        a detector to keep and use: scores and heat maps of any photographs

weights are a timm model name, hf-hub:<owner>/<repo>, local-dir:<folder>, a run's folder or its export/,
or random:<timm model> for an untrained network (a floor to compare with).
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code (0, or 2 for input to mend, or 130 when interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["report"]:
            _render(_report_parser().parse_args(argv[1:]).folder)
        elif argv[:1] == ["compare"]:
            _compare(_compare_parser().parse_args(argv[1:]))
        elif argv[:1] == ["summary"]:
            summary_command(argv[1:])
        elif argv[:1] == ["download"]:
            _download(_download_parser().parse_args(argv[1:]))
        elif argv[:1] == ["fit"]:
            fit_command(argv[1:])
        elif argv[:1] == ["predict"]:
            predict_command(argv[1:])
        else:
            request = _request(argv)
            if evaluate(request):
                _render(request.out)
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _render(folder: Path) -> None:
    console = Console()
    print_tables(read_results(folder)["rows"], console)
    console.print(f"report: {write_report(folder)}", soft_wrap=True)


def _compare(given: argparse.Namespace) -> None:
    console = Console()
    rows = read_results(given.folder)["rows"]
    baseline = match_weights(rows, given.baseline)
    comparisons = compare(rows, baseline)
    print_comparison(comparisons, console)
    written = write_comparison(given.folder, baseline, comparisons)
    console.print(f"comparison: {written}\nreport: {write_report(given.folder)}", soft_wrap=True)


def _download(given: argparse.Namespace) -> None:
    archive = ARCHIVES[given.dataset]
    url = given.url or os.environ.get(URL_VARIABLE) or archive.url
    print(f"ready: {download(replace(archive, url=url), given.to)}")


def _request(argv: list[str]) -> Request:
    given = _parser().parse_args(argv)
    return Request(
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
        workers=max(0, given.workers),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description="How well do backbones find defects? With standard detectors on their features, or fine-tuned "
        "on defects; exact metrics.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", action="extend", nargs="+", required=True, metavar="W", help="what to evaluate; repeatable"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="VisA, or MVTec AD's layout")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results.json and report.html")
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=list(PROTOCOLS),
        default=["1cls"],
        help="1cls learns from normal images alone (the default), the others from both classes: 60 %% of the images, "
        "or 5 or 10 of either class",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        choices=list(dict.fromkeys(method for protocol in PROTOCOLS.values() for method in protocol)),
        default=[],
        help="1cls: padim (the default), patchcore, gaussian, knn; one pass feeds all. 2cls: classifier scores "
        "images, unet outlines defects; by default both",
    )
    parser.add_argument(
        "--category", action="extend", nargs="+", default=[], metavar="NAME", help="only these; default all"
    )
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="repetitions (1)")
    add_settings(parser)
    add_training(parser)
    parser.add_argument(
        "--metrics",
        choices=("exact", "spot-diff"),
        default="exact",
        help="spot-diff adds the pixel metrics as the code of VisA's authors computes them, from 202 thresholds",
    )
    parser.add_argument(
        "--save-maps",
        action="store_true",
        help="keep what the numbers come from: maps, masks and scores, as maps.npz a cell (docs/evaluation.md)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=Request.workers,
        metavar="N",
        help=f"processes that decode images ({Request.workers})",
    )
    return parser


def _report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval report", description="Render the tables and report.html again from results.json."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    return parser


def _download_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval download",
        description="Fetch a public data set: VisA, 1.93 GB, CC BY 4.0. Goes on where an earlier call ended, checks "
        "size and sha256, unpacks; needs twice the archive's size on disk while it works.",
    )
    parser.add_argument("dataset", choices=sorted(ARCHIVES))
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="then give DIR as --data")
    parser.add_argument("--url", help=f"fetch the same bytes from elsewhere (or set {URL_VARIABLE})")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval compare",
        description="Differences of all weights to one of them, paired over categories and seeds, with a 95 % "
        "bootstrap interval and the verdict better, worse or undecided. Prints them, writes compare.json, and "
        "renders report.html with them.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    parser.add_argument("--baseline", required=True, metavar="W", help="the weights to compare with")
    return parser


if __name__ == "__main__":
    sys.exit(main())
