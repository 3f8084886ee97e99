"""A threshold with a stated false-alarm rate, from normal images that the detector has not seen (cross-fitting)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from ..detectors.base import Detector
from ..predictions import ReportProgress
from .features import FeatureStore

FALSE_ALARMS = 0.01
FOLDS = 5  # with fewer, a detector sees fewer images and the threshold rises; more take longer


Build = Callable[[Sequence[int]], Detector]
"""Returns an unfitted detector for the stored images with the given indices."""


def fit_on(build: Build, store: FeatureStore, indices: Sequence[int]) -> Detector:
    """Fit a detector on some of the stored images."""
    detector = build(indices)
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


def held_out(build: Build, store: FeatureStore, progress: ReportProgress = lambda *_: None) -> HeldOut:
    """Score every image by a detector that was fitted on the other folds.

    Folds are runs of consecutive images. Neighbours often show the same part, or the same hour of production. If one of
    them helped to score the other, the threshold would be too low for parts that are really new.

    Args:
        build: See `Build`. It is given the images of the other folds only.
        store: The features of all training images, at least two.
        progress: Called after each fold.
    """
    folds = np.array_split(np.arange(store.images), min(FOLDS, store.images))
    scores, levels = [], [np.empty(0, np.float32)]
    for index, fold in enumerate(folds):
        others = np.setdiff1d(np.arange(store.images), fold)
        detector = fit_on(build, store, others)
        for features in store.batches(fold):
            score, maps = detector(features)
            scores.append(score.cpu().numpy())
            if maps is not None:
                levels.append(maps[:, ::4, ::4].flatten().cpu().numpy())
        progress("threshold", index + 1, len(folds))
    return HeldOut(np.concatenate(scores), np.concatenate(levels))


@dataclass(frozen=True)
class Threshold:
    """A threshold and what is known about its rate of false alarms.

    Attributes:
        value: Scores above it are anomalous.
        wanted: The false-alarm rate that was asked for.
        rate: The expected rate of new normal images above `value`.
        low: Lower end of the 95 % interval of the true rate.
        high: Upper end.
        images: Number of normal images that it was chosen on.
    """

    value: float
    wanted: float
    rate: float
    low: float
    high: float
    images: int

    @property
    def note(self) -> str:
        """The rate and its uncertainty in words."""
        text = (
            f"{_percent(self.rate)} of good parts are expected above it; with 95 % confidence between "
            f"{_percent(self.low)} and {_percent(self.high)}, judging by {self.images} photographs scored by detectors "
            "that had not seen them"
        )
        if self.rate > self.wanted:
            needed = math.ceil(1 / self.wanted) - 1
            text += f" ({_percent(self.wanted)} needs {needed} photographs; the threshold is their highest score)"
        return text


def choose_threshold(scores: np.ndarray, rate: float) -> Threshold:
    """The threshold that new normal images exceed with at most the given probability.

    Of N exchangeable scores, a new one exceeds the k-th smallest with probability 1 - k / (N + 1) (split conformal
    prediction). The final detector has seen more images than those of the folds, so it scores normal images a little
    lower, and its rate is, if anything, smaller. The interval comes from the true rate above the k-th smallest of N
    independent scores. That rate has the distribution Beta(N + 1 - k, k) for any continuous distribution of the scores.

    Args:
        scores: Of normal images that the detectors have not seen, [N].
        rate: Wanted false-alarm rate, in (0, 1).

    Returns:
        The threshold. Its expected rate is the wanted one, rounded down to a multiple of 1 / (N + 1). If there are too
        few images for the wanted rate, the threshold is the highest score, and its expected rate is 1 / (N + 1).
    """
    n = len(scores)
    k = min(n, max(1, math.ceil((n + 1) * (1 - rate) - 1e-9)))
    low, high = betaincinv(n + 1 - k, k, [0.025, 0.975])
    return Threshold(float(np.sort(scores)[k - 1]), rate, 1 - k / (n + 1), float(low), float(high), n)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
