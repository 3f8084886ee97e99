"""The guard: synthetic defects on good parts that were left out decide whether adapted features are used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...backbone.features import Extractor
from ...detectors.base import Adapted, Detector
from ...detectors.one_class import not_finite
from ...predictions import ReportProgress
from ..features import FeatureStore
from ..photographs import decode
from ..threshold import Build, fit_on
from .defects import KINDS, synthetic_defects
from .maps import learn_maps

METHODS = ("patchcore",)  # those it was measured with
MINIMUM = 10  # good parts; with fewer, plain features are kept
LIMIT = 60  # good parts that are used; more take longer and change little
MARGIN = 0.1  # of AUROC that adapted features must gain, with 95 % confidence
_ONE_SIDED = 1.645  # standard errors below the gain for that confidence
_VISIBLE = 0.06  # smallest change of a pixel's value, of 1, for which a defect counts
_COPIES = 2  # defective copies per good part
_DEFECTS = 2  # per copy
_FOLDS = 2


@dataclass(frozen=True)
class Verdict:
    """What was decided, and on which evidence.

    Attributes:
        adapt: Whether to use the adapted features.
        plain: Image AUROC of the plain features on left-out good parts, without against with synthetic defects; None if
            it was not measured.
        adapted: That of the adapted features.
        error: Standard error of the difference.
        note: The decision in one sentence.
    """

    adapt: bool
    plain: float | None
    adapted: float | None
    error: float | None
    note: str


@dataclass
class Trial:
    """Good parts, and copies of them with synthetic defects.

    Attributes:
        good: Features of the good parts.
        bad: Features of the copies whose defects are visible.
        sources: Index of the good part of each copy.
    """

    good: FeatureStore
    bad: FeatureStore
    sources: list[int]


def decide(
    extractor: Extractor,
    files: Sequence[Path],
    resize: str,
    workers: int,
    build: Build,
    seed: int,
    progress: ReportProgress = lambda *_: None,
) -> Verdict:
    """Compare plain and adapted features on synthetic defects.

    Args:
        extractor: Gives the feature maps that the detector reads.
        files: Photographs of good parts. At most `LIMIT` of them are used, drawn at random.
        resize: One of `eval.data.images.RESIZES`.
        workers: Number of processes that decode photographs.
        build: Returns an unfitted detector for plain features.
        seed: Of the draw and of the synthetic defects.
        progress: Called after each batch and each comparison.

    Raises:
        SpdError: The features are not finite.
    """
    if len(files) < MINIMUM:
        return Verdict(False, None, None, None, f"features are not adapted: that needs {MINIMUM} good parts")
    chosen = np.random.default_rng(seed).permutation(len(files))[:LIMIT]
    trial = draw_trial(extractor, [files[index] for index in chosen], resize, workers, seed, progress)
    if len(trial.sources) < len(files) / 2:
        return Verdict(False, None, None, None, "features are not adapted: synthetic defects are hardly visible")
    parts = cross_fitted(trial, build, progress)
    plain, adapted = parts.mean(axis=0)
    error = float(np.std(parts[:, 1] - parts[:, 0], ddof=1)) / math.sqrt(len(parts))
    better = bool(adapted - plain - _ONE_SIDED * error > MARGIN)
    note = (
        f"features are {'adapted' if better else 'not adapted'}: on good parts that were left out, image AUROC for "
        f"synthetic defects is {100 * adapted:.1f} % with and {100 * plain:.1f} % without"
    )
    if not better:
        note += f"; with 95 % confidence, a gain of more than {100 * MARGIN:.0f} points is needed"
    return Verdict(better, float(plain), float(adapted), error, note)


def draw_trial(
    extractor: Extractor, files: Sequence[Path], resize: str, workers: int, seed: int, progress: ReportProgress
) -> Trial:
    """Draw synthetic defects on good parts, and extract the features of both."""
    trial = Trial(FeatureStore(len(files)), FeatureStore(_COPIES * len(files)), [])
    step = 0
    for batch in decode(files, extractor.image_size, resize, workers, extractor.batch_size):
        if not batch.files:
            continue
        first = trial.good.images
        features = extractor(batch.images)
        if not all(layer.isfinite().all() for layer in features):
            raise not_finite(extractor, "these photographs")
        trial.good.append(features)
        for _ in range(_COPIES):
            copies = batch.images
            for _ in range(_DEFECTS):
                copies, _change = synthetic_defects(copies, list(KINDS), seed, step)
                step += 1
            change = (copies.float() - batch.images.float()).abs().amax(dim=(1, 2, 3)) / 255
            visible = (change > _VISIBLE).nonzero()[:, 0]
            if len(visible):
                trial.bad.append(extractor(copies[visible]))
                trial.sources += (first + visible).tolist()
        progress("synthetic defects", trial.good.images, len(files))
    return trial


def cross_fitted(trial: Trial, build: Build, progress: ReportProgress) -> np.ndarray:
    """How well each good part and its copies are told apart by detectors that have not seen that part.

    Returns:
        One row per good part, for plain and for adapted features, [N, 2]; see `contributions`.
    """
    sources = np.asarray(trial.sources, dtype=int)
    order = np.random.default_rng(0).permutation(trial.good.images)
    found = []
    for fold in range(_FOLDS):
        left_out, others = order[fold::_FOLDS], np.setdiff1d(order, order[fold::_FOLDS])
        defective = np.flatnonzero(np.isin(sources, left_out))
        columns = []
        for builds in (build, lambda indices: Adapted(build(indices), learn_maps(trial.good, indices))):
            detector = fit_on(builds, trial.good, others)
            bad, good = (_scores(detector, *of) for of in ((trial.bad, defective), (trial.good, left_out)))
            wins = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
            columns.append(contributions(wins, sources[defective], left_out))
            progress("adaptation", 2 * fold + len(columns), 2 * _FOLDS)
        found.append(np.stack(columns, axis=1))
    return np.concatenate(found)


def contributions(wins: np.ndarray, sources: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Each part's contribution to an AUROC: their mean is the AUROC, and their spread gives its standard error.

    It is the mean of `wins` over the part's copies, plus that over the part itself, minus that over all (the AUROC's
    influence function, with a part and its copies taken together).

    Args:
        wins: 1 where a copy scores above a good part, 1/2 where they are equal, [copies, parts].
        sources: The part of which each copy was made.
        parts: The parts.
    """
    whole, by_copy = wins.mean(), wins.mean(axis=1)
    copies = [by_copy[sources == part] for part in parts]
    return np.array([one.mean() if one.size else whole for one in copies]) + wins.mean(axis=0) - whole


def _scores(detector: Detector, store: FeatureStore, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([detector(features)[0].cpu().numpy() for features in store.batches(indices)])
