"""Fit a detector on a category's normal photographs and save it."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spd_weights.errors import SpdError

from ..backbone.features import Extractor
from ..data.datasets import Category, load_categories
from ..data.download import unpacked
from ..detectors.base import Detector
from ..detectors.methods import Settings, build_detectors
from ..detectors.one_class import extractor_for, not_finite, stream_features
from ..detectors.saved import save_detector
from ..protocols import check_training
from .threshold import FeatureStore, HeldOut, fit_on, held_out, threshold

FALSE_ALARMS = 0.01


def fit(
    weights: str,
    data: Path,
    category: str,
    method: str,
    settings: Settings,
    seed: int,
    workers: int,
    save: Path,
    false_alarms: float = FALSE_ALARMS,
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
        false_alarms: Wanted rate of normal images above the threshold, in (0, 1).

    Returns:
        The description stored with the detector.

    Raises:
        SpdError: As `load_categories`, `Extractor`, `check_training` and `save_detector`.
    """
    chosen = _category(data, category)
    extractor = extractor_for(weights, [method], settings)
    started = time.perf_counter()

    def build() -> Detector:
        return build_detectors(method, settings, [seed], len(chosen.train))[0]

    detector, levels = _learn(build, chosen, extractor, settings.resize, workers, seed, false_alarms)
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
    build: Callable[[], Detector],
    category: Category,
    extractor: Extractor,
    resize: str,
    workers: int,
    seed: int,
    false_alarms: float,
) -> tuple[Detector, dict[str, Any]]:
    """Fit a detector; also returns its threshold and the level of its maps on normal images it has not seen."""
    store = FeatureStore(len(category.train))
    for maps in stream_features(extractor, category.train, resize, workers, lambda *_: None, "train"):
        store.append(maps)
    try:
        detector = fit_on(build(), store, range(store.images))
        unseen = held_out(build, store, seed) if store.images > 1 else None
    except torch.linalg.LinAlgError as error:
        raise not_finite(extractor, category) from error
    if unseen is None:
        note = "There is no threshold: it needs at least two images"
        return detector, {"threshold_hint": None, "false_alarm_rate": None, "threshold_note": note, **_levels(None)}
    if not np.isfinite(unseen.scores).all():
        raise not_finite(extractor, category)
    value, rate = threshold(unseen.scores, false_alarms)
    note = (
        f"{100 * rate:.2g} % of normal images are expected above it, judging by {store.images} normal images scored by "
        "detectors that had not seen them"
    )
    if rate > false_alarms:
        note += f" (a rate of {100 * false_alarms:.2g} % needs {math.ceil(1 / false_alarms) - 1} images)"
    return detector, {"threshold_hint": value, "false_alarm_rate": rate, "threshold_note": note, **_levels(unseen)}


def _levels(unseen: HeldOut | None) -> dict[str, float | None]:
    """Median and maximum of the maps of unseen normal images, if there are any."""
    if unseen is None or not len(unseen.levels):
        return {"map_median": None, "map_maximum": None}
    return {"map_median": float(np.median(unseen.levels)), "map_maximum": float(unseen.levels.max())}
