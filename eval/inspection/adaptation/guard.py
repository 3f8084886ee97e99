"""The guard: synthetic defects on good parts that were left out decide whether adapted features are used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...backbone.tiles import AnyExtractor
from ...detectors.base import Detector
from ...detectors.one_class import not_finite
from ...metrics import ranking
from ...predictions import ReportProgress
from ..features import FeatureStore
from ..photographs import decode
from ..threshold import Build, fit_on
from .defects import KINDS, synthetic_defects
from .maps import adapted

METHODS = ("patchcore",)  # those it was measured with
LIMIT = 40  # good parts that are used; more take longer and change little
_ONE_SIDED = 1.645  # standard errors below a gain for 95 % confidence
_VISIBLE = 0.06  # smallest change of a pixel's value, of 1, for which a pixel counts as defective
_DEFECTS = 2  # of one kind on each copy; each good part has one copy per kind
_FOLDS = 4  # detectors see three quarters of the good parts
_STRIDE = 2  # localisation is measured at every second pixel, because maps are smooth


@dataclass(frozen=True)
class Gain:
    """What adaptation changes on good parts that were left out.

    Attributes:
        plain: The measure with plain features, in [0, 1].
        adapted: That with adapted features.
        error: Standard error of the difference over good parts.
    """

    plain: float
    adapted: float
    error: float

    def exceeds(self, errors: float) -> bool:
        """Whether the gain is larger than so many standard errors."""
        return self.adapted - self.plain > errors * self.error


@dataclass(frozen=True)
class Verdict:
    """What was decided, and on which evidence.

    Attributes:
        adapt: Whether to use the adapted features.
        detection: Image AUROC, good parts against copies with synthetic defects; None if it was not measured.
        localisation: Mean pixel AP of the copies with each kind of defect; empty if it was not measured.
        note: The decision in one sentence.
    """

    adapt: bool
    detection: Gain | None
    localisation: dict[str, Gain]
    note: str


@dataclass
class Trial:
    """Good parts, and copies of them with synthetic defects.

    Attributes:
        good: Features of the good parts.
        bad: Features of the copies whose defects are visible.
        sources: Index of the good part of each copy.
        kinds: The kind of defect on each copy.
        masks: Defective pixels of each copy at every `_STRIDE`-th pixel, bool [S / stride, S / stride].
    """

    good: FeatureStore
    bad: FeatureStore
    sources: list[int]
    kinds: list[str]
    masks: list[np.ndarray]


def decide(
    extractor: AnyExtractor,
    files: Sequence[Path],
    resize: str,
    workers: int,
    build: Build,
    seed: int,
    progress: ReportProgress = lambda *_: None,
) -> Verdict:
    """Compare plain and adapted features on synthetic defects.

    Adapted features are used if they detect the defects better with 95 % confidence, and outline every kind of defect
    better by more than a standard error. Synthetic defects are not the real ones, and a mean over kinds can rise by
    kinds that these parts never have. Features that are better for every kind are better for an unknown one, too.

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
    chosen = np.random.default_rng(seed).permutation(len(files))[:LIMIT]
    trial = draw_trial(extractor, [files[index] for index in chosen], resize, workers, seed, progress)
    visible = [kind for kind in KINDS if 2 * trial.kinds.count(kind) >= trial.good.images]
    if not visible:
        return kept_plain("synthetic defects are hardly visible on these parts")
    parts, precisions = cross_fitted(trial, build, progress)
    detection = gain(parts)
    localisation = {kind: gain(precisions[np.asarray(trial.kinds) == kind]) for kind in visible}
    better = adapts(detection, localisation)
    note = (
        f"features are {'adapted' if better else 'not adapted'}: on good parts that were left out, image AUROC for "
        f"synthetic defects is {100 * detection.adapted:.1f} % with and {100 * detection.plain:.1f} % without it"
    )
    failing = [kind for kind, found in localisation.items() if not found.exceeds(1)]
    if failing:
        note += f", and maps do not outline all kinds of defects better (not {', '.join(failing)})"
    return Verdict(better, detection, localisation, note)


def adapts(detection: Gain, localisation: dict[str, Gain]) -> bool:
    """The rule of `decide`."""
    return detection.exceeds(_ONE_SIDED) and all(found.exceeds(1) for found in localisation.values())


def kept_plain(reason: str) -> Verdict:
    """The verdict if nothing was measured."""
    return Verdict(False, None, {}, f"features are not adapted: {reason}")


def draw_trial(
    extractor: AnyExtractor, files: Sequence[Path], resize: str, workers: int, seed: int, progress: ReportProgress
) -> Trial:
    """Draw synthetic defects on good parts, and extract the features of both."""
    trial = Trial(FeatureStore(len(files)), FeatureStore(len(KINDS) * len(files)), [], [], [])
    step = 0
    for batch in decode(files, extractor.image_size, resize, workers, extractor.batch_size):
        if not batch.files:
            continue
        first = trial.good.images
        features = extractor(batch.images)
        if not all(layer.isfinite().all() for layer in features):
            raise not_finite(extractor, "these photographs")
        trial.good.append(features)
        for kind in KINDS:
            copies = batch.images
            for _ in range(_DEFECTS):
                copies = synthetic_defects(copies, [kind], seed, step)
                step += 1
            masks = _defective(batch.images, copies)
            visible = masks.any(dim=(1, 2)).nonzero()[:, 0]
            if len(visible):
                trial.bad.append(extractor(copies[visible]))
                trial.sources += (first + visible).tolist()
                trial.kinds += [kind] * len(visible)
                trial.masks += list(masks[visible].numpy())
        progress("synthetic defects", trial.good.images, len(files))
    return trial


def _defective(images: Tensor, copies: Tensor) -> Tensor:
    """Where copies differ visibly, bool [B, S / stride, S / stride]."""
    change = (copies.float() - images.float()).abs().amax(dim=1) / 255
    return (change > _VISIBLE)[:, ::_STRIDE, ::_STRIDE]


def cross_fitted(trial: Trial, build: Build, progress: ReportProgress) -> tuple[np.ndarray, np.ndarray]:
    """How well detectors that have not seen a part find and outline the defects of its copies.

    Returns:
        For plain and for adapted features, each good part's contribution to the image AUROC (see `contributions`),
        [N, 2], and each copy's pixel AP, [copies, 2]; NaN where nothing was measured.
    """
    sources = np.asarray(trial.sources, dtype=int)
    order = np.random.default_rng(0).permutation(trial.good.images)
    detection, precisions = (np.full((count, 2), np.nan) for count in (len(order), len(sources)))
    for fold in range(_FOLDS):
        left_out, others = order[fold::_FOLDS], np.setdiff1d(order, order[fold::_FOLDS])
        defective = np.flatnonzero(np.isin(sources, left_out))
        if not len(defective):  # nothing is visible on these parts
            continue
        for column, builder in enumerate((build, adapted(build, trial.good))):
            detector = fit_on(builder, trial.good, others)
            good, _ = _results(detector, trial.good, left_out)
            bad, maps = _results(detector, trial.bad, defective)
            wins = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
            detection[left_out, column] = contributions(wins, sources[defective], left_out)
            precisions[defective, column] = [
                _precision(heat, trial.masks[copy]) for heat, copy in zip(maps, defective, strict=True)
            ]
            progress("adaptation", 2 * fold + column + 1, 2 * _FOLDS)
    return detection, precisions


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


def _results(detector: Detector, store: FeatureStore, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N], and maps at every `_STRIDE`-th pixel."""
    found = [detector(features) for features in store.batches(indices)]
    scores, maps = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return scores, maps[:, ::_STRIDE, ::_STRIDE]


def _precision(heat: np.ndarray, mask: np.ndarray) -> float:
    return ranking.average_precision(ranking.rank(heat[mask], heat[~mask]))


def gain(parts: np.ndarray) -> Gain:
    """Means of two columns, and the standard error of their difference; rows with NaN are left out."""
    known = parts[~np.isnan(parts).any(axis=1)]
    plain, adapted = known.mean(axis=0)
    error = np.std(known[:, 1] - known[:, 0], ddof=1) / math.sqrt(len(known))
    return Gain(float(plain), float(adapted), float(error))
