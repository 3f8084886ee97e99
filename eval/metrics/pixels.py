"""Exact ranking of a test set's pixels, image by image; memory is bounded by the number of defect pixels.

Defect pixels are few, normal pixels many. The first pass stores the scores of the defect pixels. The second pass
counts, for each distinct defect score, the normal pixels above it, and stores no normal scores.
"""

import numpy as np
from scipy import ndimage

from ..data.masks import EIGHT_CONNECTED
from .ranking import Ranking, check_finite, counts_at

_BUFFERED = 1 << 22  # scores sorted at a time; a smaller buffer needs more searches, a larger one saves little


class PixelRanking:
    """Takes two passes over the images: `add_defects` for all of them, then `add_background`, each in any order."""

    def __init__(self) -> None:
        """Start without images."""
        self._scores: list[np.ndarray] = []
        self._region_shares: list[np.ndarray] = []
        self._image_shares: list[np.ndarray] = []
        self._weights: dict[str, np.ndarray] = {}
        self._normal: _Counter | None = None
        self._anomalous: _Counter | None = None

    @property
    def defects(self) -> int:
        """Number of defect pixels so far."""
        return int(self._weights["pixels"].sum()) if self._weights else sum(s.size for s in self._scores)

    @property
    def background(self) -> int:
        """Number of normal pixels so far."""
        return sum(counter.total for counter in (self._normal, self._anomalous) if counter)

    def add_defects(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Add an image in the first pass.

        Args:
            anomaly_map: Higher is more anomalous; floating, finite, shape [H, W].
            mask: Defect pixels, bool, shape [H, W].

        Raises:
            ValueError: A score is not finite, or the second pass has already begun.
        """
        if self._normal:
            raise ValueError("add_defects must be called for all images before add_background")
        if mask.any():
            scores = _as_float(anomaly_map[mask])
            check_finite(scores)
            regions, _ = ndimage.label(mask, structure=EIGHT_CONNECTED)
            inside = regions[mask]
            self._scores.append(scores)
            self._region_shares.append(1.0 / np.bincount(inside)[inside])
            self._image_shares.append(np.full(scores.size, 1.0 / scores.size))

    def add_background(self, anomaly_map: np.ndarray, mask: np.ndarray, anomalous: bool | None = None) -> None:
        """Add an image in the second pass.

        Args:
            anomaly_map: As in `add_defects`.
            mask: As in `add_defects`.
            anomalous: Whether the image is anomalous; needed if its defect may lie outside the crop or vanish in
                the resize. By default, an image with a defect pixel is.

        Raises:
            ValueError: A score is not finite.
        """
        if self._normal is None or self._anomalous is None:
            values = self._end_of_first_pass()
            self._normal, self._anomalous = _Counter(values), _Counter(values)
        counter = self._anomalous if (mask.any() if anomalous is None else anomalous) else self._normal
        counter.add(_as_float(anomaly_map[~mask]))

    def everywhere(self) -> Ranking:
        """Defect pixels against the normal pixels of all images."""
        return self._ranking("pixels", self._normal, self._anomalous)

    def in_anomalous_images(self) -> Ranking:
        """Defect pixels against the normal pixels of anomalous images."""
        return self._ranking("pixels", self._anomalous)

    def regions(self) -> Ranking:
        """8-connected defect regions, each of weight one, against the normal pixels of all images."""
        return self._ranking("regions", self._normal, self._anomalous)

    def images_against_normal(self) -> Ranking:
        """Defect pixels, with a total weight of one per image, against the pixels of normal images."""
        return self._ranking("images", self._normal)

    def _end_of_first_pass(self) -> np.ndarray:
        """Reduce the defect scores to weights per distinct score; returns those scores, ascending."""
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
    """Counts how many scores of a stream lie above, and at or above, each of the given values."""

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
    """Keep float64; convert everything else to float32, which represents every float16 exactly."""
    return scores if scores.dtype == np.float64 else scores.astype(np.float32, copy=False)
