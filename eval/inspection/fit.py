"""Fit a detector on a category's normal photographs and save it."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spd_weights.errors import SpdError

from ..backbone.features import Extractor
from ..data.datasets import Category, load_categories
from ..data.download import unpacked
from ..detectors.base import Detector
from ..detectors.methods import DETECTORS, Settings, build_detectors
from ..detectors.one_class import not_finite, stream_features
from ..detectors.saved import save_detector
from ..protocols import check_training

_NOTE = (
    "The highest score of a training image. Training images score lower than other normal ones, so expect "
    "false alarms at it; choose a threshold on photographs the detector has not seen."
)


def fit(
    weights: str, data: Path, category: str, method: str, settings: Settings, seed: int, workers: int, save: Path
) -> dict[str, Any]:
    """Fit a detector on a category's normal training images and write it to a file.

    Args:
        weights: As for `eval.backbone.weights.load_backbone`.
        data: The data set's folder.
        category: The category's name.
        method: One of `DETECTORS`.
        settings: Image size and the methods' options.
        seed: Seed of the method's random draws.
        workers: Number of processes that decode images.
        save: The safetensors file to write.

    Returns:
        The description stored with the detector.

    Raises:
        SpdError: As `load_categories`, `Extractor`, `check_training` and `save_detector`.
    """
    chosen = _category(data, category)
    extractor = Extractor(weights, settings.image_size, DETECTORS[method].reductions, settings.feature_precision)
    (detector,) = build_detectors(method, settings, [seed], len(chosen.train))
    started = time.perf_counter()
    levels = _learn(detector, chosen, extractor, settings.resize, workers)
    about = {
        "method": method,
        "settings": asdict(settings),
        "seed": seed,
        "weights": weights,
        "weights_sha256": extractor.sha256,
        "architecture": extractor.architecture,
        "layers": extractor.layers,
        "dataset": chosen.dataset,
        "category": chosen.name,
        "n_train": len(chosen.train),
        **levels,
        "threshold_note": _NOTE,
        "seconds": round(time.perf_counter() - started, 3),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    save_detector(save, detector, about)
    return about


def _category(data: Path, name: str) -> Category:
    found = load_categories(unpacked(data), "1cls", [name])
    if len(found) > 1:
        raise SpdError(f"{data}: {name} is in {len(found)} data sets; name one as <data set>/{name}")
    check_training(found[0], "1cls")
    return found[0]


def _learn(
    detector: Detector, category: Category, extractor: Extractor, resize: str, workers: int
) -> dict[str, float | None]:
    """Fit the detector; returns the levels of its scores and maps on the training images."""

    def features() -> Iterator[list[Tensor]]:
        return stream_features(extractor, category.train, resize, workers, lambda *_: None, "train")

    scores, levels = [], []
    try:
        for maps in features():
            detector.update(maps)
        detector.fit()
        for maps in features():
            score, heat = detector(maps)
            scores += score.tolist()
            levels += [] if heat is None else [heat[:, ::4, ::4].flatten().cpu()]
    except torch.linalg.LinAlgError as error:
        raise not_finite(extractor, category) from error
    if not np.isfinite(scores).all():
        raise not_finite(extractor, category)
    return {
        "threshold_hint": max(scores),
        "map_median": float(torch.cat(levels).median()) if levels else None,
        "map_maximum": float(torch.cat(levels).max()) if levels else None,
    }
