"""A threshold with a stated false-alarm rate, from normal images that the detector has not seen (cross-fitting)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..data.scratch import scratch
from ..detectors.base import Detector

FOLDS = 5  # fewer leave out more images and raise the threshold; more take longer
_BATCH = 8


@dataclass
class FeatureStore:
    """The feature maps of all training images, on disk, for detectors that are fitted on parts of them."""

    images: int
    _arrays: list[np.ndarray] = field(default_factory=list)
    _count: int = 0
    _device: torch.device | None = None

    def append(self, maps: list[Tensor]) -> None:
        """Add a batch of feature maps, float32, each [B, C_l, H_l, W_l]."""
        if not self._arrays:
            self._arrays = [scratch((self.images, *layer.shape[1:])) for layer in maps]
            self._device = maps[0].device
        for array, layer in zip(self._arrays, maps, strict=True):
            array[self._count : self._count + len(layer)] = layer.cpu().numpy()
        self._count += len(maps[0])

    def batches(self, indices: Sequence[int]) -> Iterator[list[Tensor]]:
        """The feature maps of some images, in the given order."""
        for first in range(0, len(indices), _BATCH):
            chosen = np.asarray(indices[first : first + _BATCH])
            yield [torch.from_numpy(np.array(array[chosen])).to(self._device) for array in self._arrays]


def fit_on(detector: Detector, store: FeatureStore, indices: Sequence[int]) -> Detector:
    """Fit a detector on some of the stored images."""
    for features in store.batches(indices):
        detector.update(features)
    detector.fit()
    return detector


@dataclass
class HeldOut:
    """What detectors say about normal images that they have not seen.

    Attributes:
        scores: Image scores, float32 [N].
        levels: Values of the maps, every 16th pixel, float32; empty if the method has no maps.
    """

    scores: np.ndarray
    levels: np.ndarray


def held_out(build: Callable[[], Detector], store: FeatureStore, seed: int) -> HeldOut:
    """Score every image by a detector that was fitted on the other folds.

    Args:
        build: Returns an unfitted detector.
        store: The features of all training images, at least two.
        seed: Of the random assignment to folds.
    """
    folds = np.array_split(np.random.default_rng(seed).permutation(store.images), min(FOLDS, store.images))
    scores, levels = [], [np.empty(0, np.float32)]
    for fold in folds:
        others = np.setdiff1d(np.arange(store.images), fold)
        detector = fit_on(build(), store, others)
        for features in store.batches(fold):
            score, maps = detector(features)
            scores.append(score.cpu().numpy())
            if maps is not None:
                levels.append(maps[:, ::4, ::4].flatten().cpu().numpy())
    return HeldOut(np.concatenate(scores), np.concatenate(levels))


def threshold(scores: np.ndarray, rate: float) -> tuple[float, float]:
    """The threshold that new normal images exceed with at most the given probability.

    Of N exchangeable scores, a new one exceeds the k-th smallest with probability 1 - k / (N + 1) (split conformal
    prediction). The final detector has seen more images than those of the folds and its scores are a little lower, so
    that the rate is, if anything, smaller.

    Args:
        scores: Of normal images that the detectors have not seen, [N].
        rate: Wanted false-alarm rate, in (0, 1).

    Returns:
        The threshold, and the expected false-alarm rate: the wanted one rounded down to a multiple of 1 / (N + 1), or
        1 / (N + 1) with the highest score as threshold if there are too few images for the wanted one.
    """
    n = len(scores)
    k = min(n, math.ceil((n + 1) * (1 - rate) - 1e-9))
    return float(np.sort(scores)[k - 1]), 1 - k / (n + 1)
