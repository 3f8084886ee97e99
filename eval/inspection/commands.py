"""The command lines of `python -m eval fit` and `python -m eval predict`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from spd_weights.errors import SpdError, program

from ..detectors.methods import DETECTORS
from ..options import add_settings, rate, settings_of
from .fit import FALSE_ALARMS, fit
from .predict import predict


def fit_command(argv: list[str]) -> None:
    """Fit a detector and print a summary."""
    parser = argparse.ArgumentParser(
        prog=program("eval fit"),
        description="Fit a detector on a category's normal training images and save it as one safetensors file.",
    )
    parser.add_argument("--weights", required=True, metavar="W", help="the backbone, named as for an evaluation")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="VisA's or MVTec AD's layout")
    parser.add_argument("--category", required=True, metavar="NAME", help="the kind of object")
    parser.add_argument("--method", choices=list(DETECTORS), default="padim")
    parser.add_argument("--seed", type=int, default=0, help="seed of the method's random draws (0)")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="the detector, *.safetensors")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that decode images (1)")
    parser.add_argument(
        "--false-alarms",
        type=rate,
        default=FALSE_ALARMS,
        metavar="RATE",
        help="expected rate of normal images above the threshold, as 0.01 or 1%% (1%%)",
    )
    add_settings(parser)
    given = parser.parse_args(argv)
    about = fit(
        given.weights, given.data, given.category, given.method, settings_of(given), given.seed,
        max(0, given.workers), given.save, given.false_alarms,
    )  # fmt: skip
    console = Console()
    size = given.save.stat().st_size / 2**20
    console.print(f"{about['method']} fitted on {about['n_train']} images in {about['seconds']:.1f} s", soft_wrap=True)
    console.print(f"detector: {escape(str(given.save))} ({size:.1f} MiB)", soft_wrap=True)
    console.print(_threshold(about), soft_wrap=True)


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
    console.print(_threshold(content["detector"]), soft_wrap=True)
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


def _threshold(about: dict[str, Any]) -> str:
    value = about["threshold_hint"]
    return f"threshold hint {'none' if value is None else f'{value:.6g}'}: {about['threshold_note']}"
