"""Evaluate weights on a data set, cell by cell."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval.datasets import Category, load_categories
from eval.features import Extractor
from eval.figures import write_figures
from eval.methods import METHODS, Settings
from eval.metrics import PIXEL_METRICS, Metric, image_metrics, pixel_metrics, undefined
from eval.protocols import Prediction, Run, check, one_class, read_masks, repetitions
from eval.results import CELL, Results
from eval.spotdiff import SPOT_DIFF_METRICS, spot_diff_metrics
from spd_weights.files import write_json


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    weights: Sequence[str]
    data: Path
    out: Path
    protocols: Sequence[str] = ("1cls",)
    methods: Sequence[str] = ("padim",)
    categories: Sequence[str] = ()
    seeds: int = 1
    settings: Settings = field(default_factory=Settings)
    save_maps: bool = False
    workers: int = min(4, os.cpu_count() or 1)


def evaluate(request: Request) -> None:
    """Measure every (weights, category) that `request.out` does not hold yet.

    All data and all weights are checked before the first measurement. `results.json` is rewritten after
    every cell, so an interrupted call loses at most the cell it was in.

    Raises:
        SpdError: As `load_categories`, `Extractor` and `Results`.
    """
    results = Results(request.out, request.settings, request.data)
    work = []
    for protocol in request.protocols:
        runs = repetitions(protocol, request.methods, request.seeds)
        for category in load_categories(request.data, protocol, request.categories):
            check(category, protocol)
            work.append((category, runs))
    size, reductions = request.settings.image_size, sorted({r for m in request.methods for r in METHODS[m].reductions})
    extractors = [Extractor(weights, size, reductions) for weights in dict.fromkeys(request.weights)]
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bars:
        total = bars.add_task("all", total=len(work) * len(extractors))
        for category, runs in work:
            masks = None
            for extractor in extractors:
                todo = [r for r in runs if not results.finished(extractor, category, r, request.save_maps)]
                if todo:
                    masks = read_masks(category, request.settings.image_size) if masks is None else masks
                    _evaluate_cells(request, results, extractor, category, todo, masks, bars)
                bars.advance(total)


def _evaluate_cells(
    request: Request,
    results: Results,
    extractor: Extractor,
    category: Category,
    runs: list[Run],
    masks: np.ndarray | None,
    bars: Progress,
) -> None:
    bar = bars.add_task(f"{category.name} · {Path(extractor.weights).name}", total=None)

    def progress(stage: str, done: int, of: int) -> None:
        bars.update(
            bar, description=f"{category.name} · {Path(extractor.weights).name} · {stage}", completed=done, total=of
        )

    predictions = one_class(category, extractor, runs, request.settings, request.workers, progress)
    for run, prediction in predictions.items():
        started = time.perf_counter()
        metrics = _metrics(category, prediction, masks, request.settings.metrics)
        seconds = prediction.seconds + time.perf_counter() - started
        with results.cell(extractor, category, run) as folder:
            figures = write_figures(folder, category, prediction, masks)
            write_json(folder / CELL, {"fingerprint": category.fingerprint(), **figures})
            if request.save_maps:
                _save_maps(folder / "maps.npz", category, prediction)
        results.add(extractor, category, run, metrics, seconds)
    bars.remove_task(bar)


def _metrics(category: Category, prediction: Prediction, masks: np.ndarray | None, kind: str) -> dict[str, Metric]:
    anomalous = np.array([sample.anomalous for sample in category.test])
    metrics = image_metrics(prediction.scores, anomalous)
    names = (*PIXEL_METRICS, *SPOT_DIFF_METRICS) if kind == "spot-diff" else PIXEL_METRICS
    if prediction.maps is None:
        return metrics | undefined(names, "the method scores whole images and gives no map")
    if masks is None:
        return metrics | undefined(names, "the category has no masks")
    metrics |= pixel_metrics(prediction.maps, masks)
    return metrics | spot_diff_metrics(prediction.maps, masks) if kind == "spot-diff" else metrics


def _save_maps(path: Path, category: Category, prediction: Prediction) -> None:
    images = [sample.image.relative_to(category.folder).as_posix() for sample in category.test]
    np.savez_compressed(path, maps=prediction.maps, scores=prediction.scores, images=np.array(images))
