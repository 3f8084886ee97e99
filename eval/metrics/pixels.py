"""Pixel scores of a test set ranked image by image: exact, in memory bounded by the defect pixels.

Defect pixels are few and normal pixels many. The first pass keeps the scores of defect pixels; the second
counts, for each distinct one of them, the normal pixels above, and forgets their scores.
"""

import numpy as np
from scipy import ndimage

from .ranking import Ranking, check_finite, counts_at

_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
_BUFFERED = 1 << 22  # scores sorted at a time: larger saves little, smaller searches more often


class PixelRanking:
    """Two passes over the images of a test set, in any order: `add_defects` of all, `add_background` of all."""

    def __init__(self) -> None:
        """Start with no image."""
        self._scores: list[np.ndarray] = []
        self._region_shares: list[np.ndarray] = []
        self._image_shares: list[np.ndarray] = []
        self._weights: dict[str, np.ndarray] = {}
        self._normal: _Counter | None = None
        self._anomalous: _Counter | None = None

    @property
    def defects(self) -> int:
        """Defect pixels so far."""
        return int(self._weights["pixels"].sum()) if self._weights else sum(s.size for s in self._scores)

    @property
    def background(self) -> int:
        """Normal pixels so far."""
        return sum(counter.total for counter in (self._normal, self._anomalous) if counter)

    def add_defects(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """First pass.

        Args:
            anomaly_map: Higher is more anomalous; floating, finite, shape [H, W].
            mask: Defect pixels, bool, shape [H, W].

        Raises:
            ValueError: A score is not finite, or the second pass has begun.
        """
        if self._normal:
            raise ValueError("all defects come before the first background")
        if mask.any():
            scores = _as_float(anomaly_map[mask])
            check_finite(scores)
            regions, _ = ndimage.label(mask, structure=_EIGHT_CONNECTED)
            inside = regions[mask]
            self._scores.append(scores)
            self._region_shares.append(1.0 / np.bincount(inside)[inside])
            self._image_shares.append(np.full(scores.size, 1.0 / scores.size))

    def add_background(self, anomaly_map: np.ndarray, mask: np.ndarray, anomalous: bool | None = None) -> None:
        """Second pass; arguments and errors as of the first.

        `anomalous` tells whether the image is, where its defect may lie out of view or have vanished with the
        resize; by default it is if it has a defect pixel.
        """
        if self._normal is None or self._anomalous is None:
            values = self._end_of_first_pass()
            self._normal, self._anomalous = _Counter(values), _Counter(values)
        counter = self._anomalous if (mask.any() if anomalous is None else anomalous) else self._normal
        counter.add(_as_float(anomaly_map[~mask]))

    def everywhere(self) -> Ranking:
        """Defect pixels among the normal pixels of all images."""
        return self._ranking("pixels", self._normal, self._anomalous)

    def in_anomalous_images(self) -> Ranking:
        """Defect pixels among the normal pixels of anomalous images."""
        return self._ranking("pixels", self._anomalous)

    def regions(self) -> Ranking:
        """8-connected defect regions, of weight one each, among the normal pixels of all images."""
        return self._ranking("regions", self._normal, self._anomalous)

    def images_against_normal(self) -> Ranking:
        """Images' defects, of weight one an image, among the pixels of normal images."""
        return self._ranking("images", self._normal)

    def _end_of_first_pass(self) -> np.ndarray:
        """Distinct scores, ascending; the pixels' own are forgotten."""
        if not self._scores:
            return np.empty(0, np.float32)
        values, inverse = np.unique(np.concatenate(self._scores), return_inverse=True)
        self._scores.clear()
        self._weights["pixels"] = np.bincount(inverse)
        for name, shares in (("regions", self._region_shares), ("images", self._image_shares)):
            self._weights[name] = np.bincount(inverse, weights=np.concatenate(shares))
            shares.clear()
        return values

    def _ranking(self, unit: str, *counters: "_Counter") -> Ranking:
        counts = [counter.counts() for counter in counters]
        above, from_ = (np.sum([count[i] for count in counts], axis=0)[::-1] for i in (0, 1))
        true_from = np.cumsum(self._weights[unit][::-1])
        return Ranking(above, from_, true_from, sum(counter.total for counter in counters))


class _Counter:
    """How many of a stream of scores lie above, and at or above, each of some values."""

    def __init__(self, values: np.ndarray) -> None:
        self.total = 0
        self._values = values
        self._above = np.zeros(values.size, np.int64)
        self._from = np.zeros(values.size, np.int64)
        self._buffer: list[np.ndarray] = []
        self._waiting = 0

    def add(self, scores: np.ndarray) -> None:
        check_finite(scores)
        self._buffer.append(scores)
        self.total += scores.size
        self._waiting += scores.size
        if self._waiting >= _BUFFERED:
            self._count()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        self._count()
        return self._above, self._from

    def _count(self) -> None:
        if self._waiting:
            scores = np.concatenate(self._buffer)
            self._buffer.clear()
            self._waiting = 0
            scores.sort()
            above, from_ = counts_at(scores, self._values)
            self._above += above
            self._from += from_


def _as_float(scores: np.ndarray) -> np.ndarray:
    """float64 stays, all else becomes float32, which holds every float16."""
    return scores if scores.dtype == np.float64 else scores.astype(np.float32, copy=False)
