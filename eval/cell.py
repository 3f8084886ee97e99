"""One cell of the results: the metrics, pictures and maps of one run, written to the cell's folder."""

import functools
import hashlib
import math
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spd_weights.environment import environment
from spd_weights.files import json_text, write_json, write_text

from .data.datasets import Category, Sample
from .data.masks import DefectMasks
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
from .predictions import Prediction, Predictor, Run
from .report.curves import curve
from .report.figures import write_figures

NUMBERS_VERSION = 3
"""Raise it when a change of the code changes numbers: finished cells are then measured again. The golden tests
(tests/eval/test_golden.py) fail at such a change."""

CELL = "cell.json"
MAPS = "maps.npz"
TRAINING_IMAGES = "train.txt"  # 2-class only: one path per line, relative to the category's folder

Curves = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Cell:
    """The unit of the results: weights, a category, and one run of a method."""

    predictor: Predictor
    category: Category
    run: Run
    settings: dict[str, Any]  # those that the method uses

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of everything that the numbers depend on: data, weights, settings, device and code."""
        parts = {
            "version": NUMBERS_VERSION,
            "category": self.category.fingerprint,
            "predictor": self.predictor.identity(self.run),
            "settings": self.settings,
        }
        return hashlib.sha256(json_text(parts).encode()).hexdigest()

    @property
    def key(self) -> dict[str, Any]:
        """The fields that identify the cell in its rows."""
        where = {"dataset": self.category.dataset, "category": self.category.name}
        return {"weights": self.predictor.weights, **where, **asdict(self.run)}


def cell_folder(folder: Path, row: dict[str, Any]) -> Path:
    """The folder of a row's cell, one per (weights, dataset, category, protocol, method, seed)."""
    weights = str(row["weights"])
    # The checksum distinguishes names that differ only in characters a folder's name cannot have.
    slug = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', weights)[-60:]}-{zlib.crc32(weights.encode()):08x}"
    run = f"{row['protocol']}-{row['method']}-seed{row['seed']}"
    return folder / "cells" / slug / str(row["dataset"]) / str(row["category"]) / run


def write_cell(
    folder: Path, cell: Cell, prediction: Prediction, masks: DefectMasks | None, metrics: str, save_maps: bool
) -> None:
    """Measure a prediction and write the cell's files.

    Args:
        folder: An empty folder.
        cell: What was run.
        prediction: For the category's test images.
        masks: Their defects, or None.
        metrics: "exact", or "spot-diff" to add those of VisA's authors.
        save_maps: Whether to keep the maps, too.
    """
    started = time.perf_counter()
    found, curves = _metrics(cell.category, prediction, masks, metrics)
    seconds = prediction.seconds + time.perf_counter() - started
    square = None if masks is None else masks.square
    figures = write_figures(folder, cell.category, prediction, square, cell.predictor.resize)
    counts = {} if masks is None else {"regions": masks.regions, "regions_left_out": masks.left_out}
    _write(folder, cell, found, (seconds, prediction.milliseconds), {**figures, "curves": curves}, counts)
    if save_maps:
        _save_maps(folder / MAPS, cell.category, prediction, square)


def write_undefined_cell(folder: Path, cell: Cell, metrics: str, reason: str) -> None:
    """Write a cell that cannot be measured: every metric is undefined for the given reason."""
    _write(folder, cell, undefined((*IMAGE_METRICS, *_pixel_metrics(metrics)), reason), (0.0, None), {}, {})


def _write(
    folder: Path,
    cell: Cell,
    metrics: dict[str, Metric],
    times: tuple[float, float | None],
    figures: dict[str, Any],
    regions: dict[str, int],
) -> None:
    where = environment()
    name = hashlib.sha256(json_text(where).encode()).hexdigest()[:8]
    rows = [{**row, "environment": name} for row in _rows(cell, metrics, times, regions)]
    write_json(folder / CELL, {"fingerprint": cell.fingerprint, "environment": where, "rows": rows, **figures})
    if cell.run.protocol != "1cls":
        names = _names(cell.category, cell.category.train)
        write_text(folder / TRAINING_IMAGES, "".join(f"{name}\n" for name in names))


def _rows(
    cell: Cell, metrics: dict[str, Metric], times: tuple[float, float | None], regions: dict[str, int]
) -> list[dict[str, Any]]:
    """One row per metric, with the cell's seconds and its milliseconds per test image.

    The row of AUPRO also counts the defect regions, and those that it leaves out.
    """
    test = cell.category.test
    anomalies = sum(sample.anomalous for sample in test)
    seconds, milliseconds = times
    rows = []
    for name, metric in metrics.items():
        row = {
            "weights_sha256": cell.predictor.sha256,
            **cell.key,
            "metric": name,
            "value": metric.value,
            "n_train": len(cell.category.train),
            "n_test_normal": len(test) - anomalies,
            "n_test_anomalous": anomalies,
            "seconds": round(seconds, 3),
            "milliseconds_per_image": None if milliseconds is None else round(milliseconds, 3),
        }
        row |= {"reason": metric.reason} if metric.value is None else {}
        row |= regions if name == "pixel_aupro" and metric.value is not None else {}
        rows.append(row)
    return rows


def _pixel_metrics(kind: str) -> tuple[str, ...]:
    return (*PIXEL_METRICS, *SPOT_DIFF_METRICS) if kind == "spot-diff" else PIXEL_METRICS


def _metrics(
    category: Category, prediction: Prediction, masks: DefectMasks | None, kind: str
) -> tuple[dict[str, Metric], Curves]:
    """All metrics, and the curves of images and, if they are defined, of pixels."""
    anomalous = np.array([sample.anomalous for sample in category.test])
    metrics = image_metrics(prediction.scores, anomalous)
    curves = {"image": curve(rank(prediction.scores[anomalous], prediction.scores[~anomalous]))}
    if prediction.maps is None:
        return metrics | undefined(_pixel_metrics(kind), "the method scores whole images and gives no map"), curves
    if masks is None:
        return metrics | undefined(_pixel_metrics(kind), "the category has no masks"), curves
    pixels = rank_pixels(prediction.maps, masks.scored, anomalous)
    metrics |= metrics_of_pixels(pixels)
    if pixels.defects and pixels.background:
        curves["pixel"] = curve(pixels.everywhere())
    return metrics | spot_diff_metrics(prediction.maps, masks.scored) if kind == "spot-diff" else metrics, curves


def _save_maps(path: Path, category: Category, prediction: Prediction, masks: np.ndarray | None) -> None:
    """Save everything that the metrics are computed from: maps as float16 divided by `scale`, scores and masks.

    Metrics depend on ranks only. float16 rounds to one part in 2,048; scores that lie closer become ties.
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
    """A divisor that brings maps into float16's range: 1 for most, otherwise a power of two, so that scaling is exact.

    float16 overflows beyond 65,504 and loses digits below 6e-5.
    """
    return 1.0 if largest == 0 or 1 <= largest < 2**15 else 2.0 ** (math.frexp(largest)[1] - 15)


def _names(category: Category, samples: Sequence[Sample]) -> list[str]:
    return [sample.image.relative_to(category.folder).as_posix() for sample in samples]
