"""Exact detection and localisation metrics: no histogram, no sampled thresholds, ties handled.

Every metric needs, at each distinct score of a positive, how many positives and how many negatives lie
at or above it. Positives (defect pixels) are few and negatives are many, so one plain sort of the
negatives and a binary search per distinct positive score give all of them.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

IMAGE_METRICS = ("image_auroc", "image_aupr", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_aupr", "pixel_aupro")
AUPRO_FPR_LIMIT = 0.3
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


class Metric(NamedTuple):
    """A value in [0, 1], or None with the reason why it is undefined."""

    value: float | None
    reason: str | None = None


class _Ranking(NamedTuple):
    """Cumulative counts at the distinct scores of the positives, highest score first."""

    false_above: np.ndarray  # negatives strictly above the score
    false_from: np.ndarray  # negatives at or above it
    true_from: np.ndarray  # positives at or above it, each counted with its weight
    negatives: int


def image_metrics(scores: np.ndarray, anomalous: np.ndarray) -> dict[str, Metric]:
    """Detection metrics over the images of a test set.

    Args:
        scores: Anomaly scores, higher is more anomalous; floating, finite, shape [N].
        anomalous: The truth, bool, shape [N].

    Returns:
        `image_auroc` (Mann-Whitney, ties count one half), `image_aupr` (average precision) and
        `image_f1max` (the best F1 of any threshold).
    """
    if anomalous.all() or not anomalous.any():
        missing = "normal" if anomalous.all() else "anomalous"
        return dict.fromkeys(IMAGE_METRICS, Metric(None, f"the test set has no {missing} image"))
    ranking = _rank(scores[anomalous], np.sort(scores[~anomalous]))
    values = (_area(ranking), _average_precision(ranking), _f1_max(ranking))
    return dict(zip(IMAGE_METRICS, map(Metric, values), strict=True))


def pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, Metric]:
    """Localisation metrics over the pixels of all test images, normal images included.

    Args:
        maps: Anomaly maps, higher is more anomalous; floating, finite, shape [N, H, W].
        masks: Defect pixels, bool, shape [N, H, W].

    Returns:
        `pixel_auroc`, `pixel_aupr` (average precision) and `pixel_aupro`: the mean over 8-connected
        defect regions of the covered fraction, against the false positive rate over all normal pixels,
        integrated up to a rate of 0.3 and divided by it (Bergmann et al., MVTec AD, section 6).
    """
    if masks.all() or not masks.any():
        missing = "normal" if masks.all() else "defect"
        return dict.fromkeys(PIXEL_METRICS, Metric(None, f"the test masks have no {missing} pixel"))
    positive, negative = maps[masks], np.sort(maps[~masks])
    ranking = _rank(positive, negative)
    regions = _rank(positive, negative, _region_weights(masks))
    values = (_area(ranking), _average_precision(ranking), _area(regions, AUPRO_FPR_LIMIT))
    return dict(zip(PIXEL_METRICS, map(Metric, values), strict=True))


def undefined(names: tuple[str, ...], reason: str) -> dict[str, Metric]:
    """The given metrics, each without a value for the same reason."""
    return dict.fromkeys(names, Metric(None, reason))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of `scores` (floating, any shape) for the truth `positive` (bool, both present)."""
    return _average_precision(_rank(scores[positive], np.sort(scores[~positive])))


def _rank(positive: np.ndarray, negative: np.ndarray, weights: np.ndarray | None = None) -> _Ranking:
    """Rank positives (any order) among negatives (sorted ascending)."""
    if not (np.isfinite(positive).all() and np.isfinite(negative).all()):
        raise ValueError("anomaly scores must be finite")
    values, inverse = np.unique(positive, return_inverse=True)
    counts = np.bincount(inverse, weights=weights)
    return _Ranking(
        false_above=(negative.size - np.searchsorted(negative, values, side="right"))[::-1],
        false_from=(negative.size - np.searchsorted(negative, values, side="left"))[::-1],
        true_from=np.cumsum(counts[::-1]),
        negatives=negative.size,
    )


def _area(ranking: _Ranking, limit: float = 1.0) -> float:
    """Area under (false positive rate, recall) up to the rate `limit`, divided by it; ties are diagonals."""
    recall = ranking.true_from / ranking.true_from[-1]
    before = np.concatenate([[0.0], recall[:-1]])
    x = np.stack([ranking.false_above, ranking.false_from], axis=1).ravel() / ranking.negatives
    y = np.stack([before, recall], axis=1).ravel()
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    end = int(np.searchsorted(x, limit, side="right"))
    if end < x.size:
        rise = (y[end] - y[end - 1]) / (x[end] - x[end - 1])
        y[end] = y[end - 1] + rise * (limit - x[end - 1])
        x[end] = limit
    x, y = x[: end + 1], y[: end + 1]
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 / limit)


def _average_precision(ranking: _Ranking) -> float:
    precision = ranking.true_from / (ranking.true_from + ranking.false_from)
    gained = np.diff(ranking.true_from, prepend=0)
    return float(np.sum(gained * precision) / ranking.true_from[-1])


def _f1_max(ranking: _Ranking) -> float:
    # The best threshold is always some positive's score: just below it only negatives are added.
    predicted = ranking.true_from + ranking.false_from
    return float(np.max(2 * ranking.true_from / (predicted + ranking.true_from[-1])))


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """Each defect pixel's share of its region, in the order of `maps[masks]`: 1 / pixels of the region."""
    weights = []
    for mask in masks:
        if mask.any():
            regions, _ = ndimage.label(mask, structure=_EIGHT_CONNECTED)
            inside = regions[mask]
            weights.append(1.0 / np.bincount(inside)[inside])
    return np.concatenate(weights)
