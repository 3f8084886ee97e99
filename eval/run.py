"""Evaluate weights on data sets: plan the cells, measure those that are missing, collect the results."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .cell import Cell, write_cell, write_undefined_cell
from .data.datasets import Category, Sample, draw_shots, load_categories
from .data.download import unpacked
from .data.masks import DefectMasks, check_masks, defect_masks
from .detectors.methods import DETECTORS, Settings
from .detectors.one_class import OneClassPredictor
from .finetune.training import Training
from .finetune.two_class import TwoClassPredictor
from .predictions import Predictor, Run
from .protocols import SHOTS, check, repetitions, settings_used
from .results import Results

Job = list[Cell]  # cells that differ only in their run, and are measured together
ReadMasks = Callable[[Sequence[Sample], int, str, str], DefectMasks | None]
_TIMEOUT = timedelta(days=30)  # for waiting until other processes finish their cells; accelerate's default is minutes


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    weights: Sequence[str]
    data: Path
    out: Path
    protocols: Sequence[str] = ("1cls",)
    methods: Sequence[str] = ()  # empty: the protocols' default methods
    categories: Sequence[str] = ()  # empty: all
    seeds: int = 1
    settings: Settings = field(default_factory=Settings)
    training: Training = field(default_factory=Training)
    save_maps: bool = False
    workers: int = min(4, os.cpu_count() or 1)


def evaluate(request: Request) -> bool:
    """Measure every cell that `request.out` does not hold yet; several processes share the cells.

    All data and all weights are checked before the first measurement. Finished cells are kept, so an interruption
    loses only the cells in progress. Processes (of torchrun or accelerate) share cells and nothing within them, so
    their number does not change the results.

    Returns:
        Whether this process should show the results: true in exactly one process.

    Raises:
        SpdError: As `load_categories`, `draw_shots`, `repetitions`, the predictors and `Results`.
    """
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT)
    runs = {protocol: repetitions(protocol, request.methods, request.seeds) for protocol in request.protocols}
    methods = {run.method for of_protocol in runs.values() for run in of_protocol}
    training = {} if methods <= DETECTORS.keys() else asdict(request.training)
    results = Results(request.out, request.data, {**asdict(request.settings), **training}, methods)
    with processes.main_process_first():
        request = replace(request, data=unpacked(request.data))
    jobs = _plan(request, runs)
    new = results.uncollected(cell for job in jobs for cell in job)
    jobs = [[cell for cell in job if not results.finished(cell, request.save_maps)] for job in jobs]
    jobs = [job for job in jobs if job]
    if processes.is_main_process:
        results.collect(new)  # cells that other processes finished before an interruption
    processes.wait_for_everyone()  # no process may finish a cell before all have listed the missing ones
    masks_of = functools.lru_cache(maxsize=2)(defect_masks)
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


def _plan(request: Request, runs: dict[str, list[Run]]) -> list[Job]:
    """All requested cells, with their data and weights checked; `runs` by protocol."""
    data = {protocol: load_categories(request.data, protocol, request.categories) for protocol in runs}
    for protocol, categories in data.items():
        for category in categories:
            check(category, protocol)
    check_masks([category for categories in data.values() for category in categories])
    weights = list(dict.fromkeys(request.weights))
    predictors = {name: _predictors(name, runs, request) for name in weights}
    jobs = []
    for protocol, categories in data.items():
        for category in categories:
            for name in weights:
                jobs += _jobs(protocol, category, runs[protocol], predictors[name], request)
    return jobs


def _predictors(weights: str, runs: dict[str, list[Run]], request: Request) -> dict[str, Predictor]:
    """Load the weights: once for all 1-class methods, and once for each 2-class method. Keys are methods."""
    methods = {protocol: list(dict.fromkeys(run.method for run in runs[protocol])) for protocol in runs}
    predictors: dict[str, Predictor] = {}
    if one_class := methods.pop("1cls", []):
        predictors |= dict.fromkeys(one_class, OneClassPredictor(weights, one_class, request.settings))
    for method in dict.fromkeys(method for names in methods.values() for method in names):
        predictors[method] = TwoClassPredictor(weights, method, request.training)
    return predictors


def _jobs(
    protocol: str, category: Category, runs: list[Run], predictors: dict[str, Predictor], request: Request
) -> list[Job]:
    """A category's jobs: one for all 1-class runs, which share their features, and one for each 2-class run."""
    settings = {**asdict(request.settings), **asdict(request.training)}
    cells = []
    for run in runs:
        drawn = draw_shots(category, SHOTS[protocol], run.seed) if protocol in SHOTS else category
        used = {name: settings[name] for name in settings_used(run.method)}
        cells.append(Cell(predictors[run.method], drawn, run, used))
    return [cells] if protocol == "1cls" else [[cell] for cell in cells]


def _measure(job: Job, request: Request, results: Results, masks_of: ReadMasks, bars: Progress) -> None:
    """Measure a job's cells and write their folders."""
    predictor, category = job[0].predictor, job[0].category
    metrics = request.settings.metrics
    title = f"{category.name} · {Path(predictor.weights).name}"
    bar = bars.add_task(title, total=None)

    def progress(stage: str, done: int, of: int) -> None:
        bars.update(bar, description=f"{title} · {stage}", completed=done, total=of)

    if reason := predictor.unusable(category):
        for cell in job:
            with results.folder(cell) as folder:
                write_undefined_cell(folder, cell, metrics, reason)
    else:
        masks = masks_of(category.test, predictor.image_size, predictor.resize, request.settings.map_size)
        predictions = predictor.predict(category, [cell.run for cell in job], request.workers, progress)
        for cell in job:
            with results.folder(cell) as folder:
                write_cell(folder, cell, predictions[cell.run], masks, metrics, request.save_maps)
    bars.remove_task(bar)


def _progress_bars(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
    )
