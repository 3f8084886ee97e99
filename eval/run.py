"""Evaluate weights on a data set, cell by cell."""

import functools
import hashlib
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spd_weights.files import write_json, write_text

from .backbone.features import Extractor
from .data.datasets import Category, Sample, draw_shots, load_categories
from .data.download import unpacked
from .detectors.methods import METHODS, Settings
from .finetune.training import Training
from .finetune.two_class import Finetuner
from .metrics.metrics import (
    IMAGE_METRICS,
    PIXEL_METRICS,
    Metric,
    image_metrics,
    metrics_of_pixels,
    rank_pixels,
    undefined,
)
from .metrics.ranking import rank
from .metrics.spotdiff import SPOT_DIFF_METRICS, spot_diff_metrics
from .protocols import SHOTS, Prediction, Run, check, check_masks, one_class, read_masks, repetitions
from .report.curves import curve
from .report.figures import write_figures
from .results import CELL, Cell, Results, rows_of

TRAINING_IMAGES = "train.txt"  # in a 2-class cell's folder: one path a line, from the category's folder
ReadMasks = Callable[[Sequence[Sample], int, str], np.ndarray | None]
_PATIENCE = timedelta(days=30)  # that a process waits for those with longer cells; accelerate's default is minutes


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    weights: Sequence[str]
    data: Path
    out: Path
    protocols: Sequence[str] = ("1cls",)
    methods: Sequence[str] = ()  # none: the protocols' own choice
    categories: Sequence[str] = ()
    seeds: int = 1
    settings: Settings = field(default_factory=Settings)
    training: Training = field(default_factory=Training)
    save_maps: bool = False
    workers: int = min(4, os.cpu_count() or 1)


def evaluate(request: Request) -> bool:
    """Measure every cell that `request.out` does not hold yet; several processes share the cells out.

    All data and all weights are checked before the first measurement. A cell that is finished is kept, so an
    interrupted call loses at most the cells it was in. Processes (torchrun's, accelerate's) share cells and
    nothing within them, so their number changes no result.

    Returns:
        Whether this process is the one to show the results: true in one of the processes.

    Raises:
        SpdError: As `load_categories`, `draw_shots`, `repetitions`, `Extractor`, `Finetuner` and `Results`.
    """
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    two_class = any(protocol != "1cls" for protocol in request.protocols)
    training = asdict(request.training) if two_class else {}
    results = Results(request.out, asdict(request.settings), training, request.data)
    with processes.main_process_first():
        request = replace(request, data=unpacked(request.data))
    jobs = _jobs(request)
    new = results.uncollected(cell for job in jobs for cell in job)
    jobs = [[cell for cell in job if not results.finished(cell, request.save_maps)] for job in jobs]
    jobs = [job for job in jobs if job]
    if processes.is_main_process:
        results.collect(new)  # what other processes finished before an interruption
    processes.wait_for_everyone()  # none may finish a cell before all have seen which ones are to do
    masks_of = functools.lru_cache(maxsize=2)(read_masks)
    with _progress_bars(processes.is_main_process) as bars:
        own = jobs[processes.process_index :: processes.num_processes]
        total = bars.add_task("all", total=len(own))
        for job in own:
            _measure(job, request, results, masks_of, bars)
            if processes.is_main_process:
                results.collect(job)
            bars.advance(total)
    processes.wait_for_everyone()
    if processes.is_main_process:
        results.collect(new)
    return processes.is_main_process


def _jobs(request: Request) -> list[list[Cell]]:
    """All that is asked for, checked. The cells of a job differ in the run alone, and are measured together."""
    runs = {protocol: repetitions(protocol, request.methods, request.seeds) for protocol in request.protocols}
    data = {protocol: load_categories(request.data, protocol, request.categories) for protocol in runs}
    for protocol, categories in data.items():
        for category in categories:
            check(category, protocol)
    check_masks([category for categories in data.values() for category in categories])
    sources = {
        (weights, method): source
        for weights in dict.fromkeys(request.weights)
        for method, source in _sources(weights, runs, request).items()
    }
    settings = asdict(request.settings)
    training = {**asdict(request.training), "metrics": request.settings.metrics}
    jobs = []
    for protocol, categories in data.items():
        for category, weights in itertools.product(categories, dict.fromkeys(request.weights)):
            if protocol == "1cls":
                jobs.append(_cells(sources[weights, protocol], category, runs[protocol], settings))
                continue
            for run in runs[protocol]:
                drawn = draw_shots(category, SHOTS[protocol], run.seed) if protocol in SHOTS else category
                jobs.append(_cells(sources[weights, run.method], drawn, [run], training))
    return jobs


def _sources(weights: str, runs: dict[str, list[Run]], request: Request) -> dict[str, Extractor | Finetuner]:
    """The weights, loaded for the 1-class protocol and for each method of the 2-class protocols."""
    sources: dict[str, Extractor | Finetuner] = {}
    if "1cls" in runs:
        reductions = {reduction for run in runs["1cls"] for reduction in METHODS[run.method].reductions}
        settings = request.settings
        sources["1cls"] = Extractor(weights, settings.image_size, sorted(reductions), settings.feature_precision)
    for method in {run.method for protocol in runs.keys() - {"1cls"} for run in runs[protocol]}:
        sources[method] = Finetuner(weights, method, request.training)
    return sources


def _cells(
    source: Extractor | Finetuner, category: Category, runs: Sequence[Run], settings: dict[str, Any]
) -> list[Cell]:
    fingerprint = hashlib.sha256(f"{category.fingerprint()} {settings}".encode()).hexdigest()
    return [Cell(source, category, run, fingerprint) for run in runs]


def _measure(job: Sequence[Cell], request: Request, results: Results, masks_of: ReadMasks, bars: Progress) -> None:
    category, source = job[0].category, job[0].source
    title = f"{category.name} · {Path(source.weights).name}"
    bar = bars.add_task(title, total=None)

    def progress(stage: str, done: int, of: int) -> None:
        bars.update(bar, description=f"{title} · {stage}", completed=done, total=of)

    if isinstance(source, Finetuner) and (reason := source.unusable(category)):
        names = (*IMAGE_METRICS, *_pixel_metrics(request.settings.metrics))
        with results.folder(job[0]) as folder:
            _write_cell(folder, job[0], undefined(names, reason), 0.0, {})
    else:
        resize = "square" if isinstance(source, Finetuner) else request.settings.resize
        masks = masks_of(category.test, source.image_size, resize)
        for cell, prediction in _predictions(job, request, progress).items():
            started = time.perf_counter()
            metrics, curves = _metrics(category, prediction, masks, request.settings.metrics)
            seconds = prediction.seconds + time.perf_counter() - started
            with results.folder(cell) as folder:
                figures = write_figures(folder, category, prediction, masks, resize)
                _write_cell(folder, cell, metrics, seconds, {**figures, "curves": curves})
                if request.save_maps:
                    _save_maps(folder / "maps.npz", category, prediction, masks)
    bars.remove_task(bar)


def _predictions(
    job: Sequence[Cell], request: Request, progress: Callable[[str, int, int], None]
) -> dict[Cell, Prediction]:
    first = job[0]
    if isinstance(first.source, Finetuner):
        return {first: first.source(first.category, first.run.seed, request.workers, progress)}
    cells = {cell.run: cell for cell in job}
    predictions = one_class(first.category, first.source, list(cells), request.settings, request.workers, progress)
    return {cells[run]: prediction for run, prediction in predictions.items()}


def _pixel_metrics(kind: str) -> tuple[str, ...]:
    return (*PIXEL_METRICS, *SPOT_DIFF_METRICS) if kind == "spot-diff" else PIXEL_METRICS


def _metrics(
    category: Category, prediction: Prediction, masks: np.ndarray | None, kind: str
) -> tuple[dict[str, Metric], dict[str, dict[str, list[float]]]]:
    """All metrics, and the curves of images and pixels where there are any."""
    anomalous = np.array([sample.anomalous for sample in category.test])
    metrics = image_metrics(prediction.scores, anomalous)
    curves = {"image": curve(rank(prediction.scores[anomalous], prediction.scores[~anomalous]))}
    if prediction.maps is None:
        return metrics | undefined(_pixel_metrics(kind), "the method scores whole images and gives no map"), curves
    if masks is None:
        return metrics | undefined(_pixel_metrics(kind), "the category has no masks"), curves
    pixels = rank_pixels(prediction.maps, masks, anomalous)
    metrics |= metrics_of_pixels(pixels)
    if pixels.defects and pixels.background:
        curves["pixel"] = curve(pixels.everywhere())
    return metrics | spot_diff_metrics(prediction.maps, masks) if kind == "spot-diff" else metrics, curves


def _write_cell(folder: Path, cell: Cell, metrics: dict[str, Metric], seconds: float, figures: dict[str, Any]) -> None:
    rows = rows_of(cell, metrics, seconds)
    write_json(folder / CELL, {"fingerprint": cell.fingerprint, "rows": rows, **figures})
    if cell.run.protocol != "1cls":
        write_text(
            folder / TRAINING_IMAGES, "".join(f"{name}\n" for name in _names(cell.category, cell.category.train))
        )


def _save_maps(path: Path, category: Category, prediction: Prediction, masks: np.ndarray | None) -> None:
    """All that the numbers come from: maps, divided by `scale`, in float16, scores and masks as they are.

    Ranks alone count for the metrics. float16 rounds to one part in 2,048, which ties scores that lie closer.
    """
    arrays = {
        "images": np.array(_names(category, category.test)),
        "anomalous": np.array([sample.anomalous for sample in category.test]),
        "scores": prediction.scores,
    }
    if prediction.maps is not None:
        scale = _half_scale(max(float(np.abs(one).max()) for one in prediction.maps))
        halves = np.empty(prediction.maps.shape, np.float16)
        for half, one in zip(halves, prediction.maps, strict=True):
            half[:] = one / scale
        arrays |= {"maps": halves, "scale": np.array(scale)}
    if masks is not None:
        arrays["masks"] = masks
    np.savez_compressed(path, **arrays)


def _half_scale(largest: float) -> float:
    """One for most maps; else a power of two, which rounds nothing, that brings the largest value into float16's range.

    Beyond 65,504 lies infinity, and below 6e-5 float16 has ever fewer digits.
    """
    return 1.0 if largest == 0 or 1 <= largest < 2**15 else 2.0 ** (math.frexp(largest)[1] - 15)


def _names(category: Category, samples: Sequence[Sample]) -> list[str]:
    return [sample.image.relative_to(category.folder).as_posix() for sample in samples]


def _progress_bars(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
    )
