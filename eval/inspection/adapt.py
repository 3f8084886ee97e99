"""Adapt a detector to a user's own parts: one linear map per layer, learned from photographs of good ones.

Detectors compare patches by distances, and a frozen backbone leaves to chance how much each direction of a feature map
and each layer contributes. What good parts differ by should contribute little. So, with r the difference between a
patch and the nearest patch of other good parts, each layer gets the matrix

    W = (S + SHRINKAGE * mean(diag S) * I)^(-1/2)     S = mean of r r^T over the patches of good parts

scaled so that the mean of |W r|^2 is 1 in the first layer and falls by the factor `BALANCE` per layer. There is nothing
to train. Synthetic defects on good parts that were left out decide whether the adapted features are used.

The method is ours. Whitening within classes is relevant component analysis (Bar-Hillel et al., JMLR 2005). Patches have
no classes, so the nearest patch of another part takes the place of the class.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbone.features import Extractor
from ..detectors.adapted import Adapted
from ..detectors.base import Detector
from ..metrics.ranking import rank, roc_area
from ..predictions import ReportProgress
from .defects import KINDS, synthetic_defects
from .features import FeatureStore
from .photographs import decode
from .threshold import fit_on

MINIMUM = 20  # good parts; with fewer, plain features are kept
LIMIT = 60  # good parts that are used; more take longer and change little
SHRINKAGE = 0.01  # of S towards equal variances; the two constants were chosen on tile, pcb_13000 and capsules
BALANCE = 4.0
MARGIN = 0.01  # of AUROC that the adapted features must gain
_VISIBLE = 0.06  # smallest change of a pixel's value, of 1, for which a defect counts
_COPIES = 2  # defective copies per good part
_DEFECTS = 2  # per copy
_FOLDS = 2
_BANK = 4000  # patches among which the nearest is searched
_QUERIES = 20  # good parts per half whose patches are compared with those of the other half


@dataclass(frozen=True)
class Verdict:
    """What was decided, and on which evidence.

    Attributes:
        adapt: Whether to use the adapted features.
        plain: Image AUROC of the plain features on left-out good parts, without against with synthetic defects; None if
            it was not measured.
        adapted: That of the adapted features.
        note: The decision in one sentence.
    """

    adapt: bool
    plain: float | None
    adapted: float | None
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
    build: Callable[[int], Detector],
    seed: int,
    progress: ReportProgress = lambda *_: None,
) -> Verdict:
    """Compare plain and adapted features on synthetic defects.

    Args:
        extractor: Gives the feature maps that the detector reads.
        files: Photographs of good parts. At most `LIMIT` of them are used, drawn at random.
        resize: One of `eval.data.images.RESIZES`.
        workers: Number of processes that decode photographs.
        build: Returns an unfitted detector for plain features, given the number of images.
        seed: Of the draw and of the synthetic defects.
        progress: Called after each batch and each comparison.
    """
    if len(files) < MINIMUM:
        return Verdict(False, None, None, f"features are not adapted: that needs {MINIMUM} good parts")
    chosen = np.random.default_rng(seed).permutation(len(files))[:LIMIT]
    trial = draw_trial(extractor, [files[index] for index in chosen], resize, workers, seed, progress)
    plain, adapted = np.mean(list(cross_fitted(trial, build, progress)), axis=0)
    better = bool(adapted > plain + MARGIN)
    note = (
        f"features are {'adapted' if better else 'not adapted'}: on good parts that were left out, image AUROC for "
        f"synthetic defects is {100 * adapted:.1f} % with and {100 * plain:.1f} % without"
    )
    return Verdict(better, float(plain), float(adapted), note)


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
        trial.good.append(extractor(batch.images))
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


def cross_fitted(trial: Trial, build: Callable[[int], Detector], progress: ReportProgress) -> Iterator[list[float]]:
    """Image AUROC of plain and of adapted features per fold, on good parts that the detectors have not seen."""
    sources = np.asarray(trial.sources)
    order = np.random.default_rng(0).permutation(trial.good.images)
    for fold in range(_FOLDS):
        left_out, others = order[fold::_FOLDS], np.setdiff1d(order, order[fold::_FOLDS])
        defective = np.flatnonzero(np.isin(sources, left_out))
        areas = []
        for detector in (build(len(others)), Adapted(build(len(others)), learn_maps(trial.good, others))):
            fit_on(detector, trial.good, others)
            scores = [_scores(detector, store, of) for store, of in ((trial.bad, defective), (trial.good, left_out))]
            areas.append(roc_area(rank(*scores)))
            progress("adaptation", 2 * fold + len(areas), 2 * _FOLDS)
        yield areas


def learn_maps(store: FeatureStore, indices: Sequence[int]) -> list[Tensor]:
    """Learn one matrix W per layer from some good parts; see the module's formula.

    The good parts are divided into two halves, and the patches of each half are compared with those of the other.

    Returns:
        float32 [C_l, C_l] per layer, on the features' device.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(np.asarray(indices))
    halves = [_patches(store, order[half::2][:_QUERIES]) for half in range(2)]
    maps = []
    for layer, (first, second) in enumerate(zip(*halves, strict=True)):
        differences = torch.cat([_to_nearest(a, b, rng) for a, b in ((first, second), (second, first))])
        maps.append(_whitening(differences.T @ differences / len(differences), BALANCE**-layer))
    return maps


def _patches(store: FeatureStore, indices: np.ndarray) -> list[Tensor]:
    """The 3 x 3 means around all positions of some images, per layer on its own grid, float32 [n, C_l]."""
    batches = store.batches(indices)
    pooled = ([F.avg_pool2d(x, 3, 1, 1).permute(0, 2, 3, 1).flatten(0, 2) for x in batch] for batch in batches)
    return [torch.cat(parts) for parts in zip(*pooled, strict=True)]


def _to_nearest(patches: Tensor, others: Tensor, rng: np.random.Generator) -> Tensor:
    """Differences between patches and the nearest of at most `_BANK` others, float32 [n, C]."""
    bank = others[torch.from_numpy(rng.permutation(len(others))[:_BANK]).to(others.device)]
    centre = bank.mean(dim=0)
    norms = (bank - centre).square().sum(dim=1)
    nearest = [torch.addmm(norms, c - centre, (bank - centre).T, alpha=-2).argmin(1) for c in patches.split(_BANK)]
    return patches - bank[torch.cat(nearest)]


def _whitening(moment: Tensor, energy: float) -> Tensor:
    """The matrix W for differences r with the given second moment, scaled so that the mean of |W r|^2 is `energy`."""
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=0)
    if not values.any():  # identical images
        return torch.eye(len(moment), device=moment.device)
    shrunk = values + SHRINKAGE * values.mean()
    scale = math.sqrt(energy / float((values / shrunk).sum()))
    return (scale * (vectors * shrunk.rsqrt()) @ vectors.T).float()


def _scores(detector: Detector, store: FeatureStore, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([detector(features)[0].cpu().numpy() for features in store.batches(indices)])
