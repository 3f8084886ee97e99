"""Exact areas and maxima of ROC and precision-recall curves, from counts at the scores of the positives.

Every metric needs, at each distinct score of a positive, the number of positives and negatives at or above it. Between
two such scores lie only negatives, and no metric depends on where they lie.
"""

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """Cumulative counts at the distinct scores of the positives, highest score first."""

    false_above: np.ndarray  # negatives strictly above the score
    false_from: np.ndarray  # negatives at or above it
    true_from: np.ndarray  # total weight of the positives at or above it
    negatives: int


def rank(positive: np.ndarray, negative: np.ndarray) -> Ranking:
    """Rank the scores of positives among those of negatives; both floating, finite and one-dimensional.

    Raises:
        ValueError: A score is not finite.
    """
    check_finite(positive)
    check_finite(negative)
    values, counts = np.unique(positive, return_counts=True)
    above, from_ = counts_at(np.sort(negative), values)
    return Ranking(above[::-1], from_[::-1], np.cumsum(counts[::-1]), negative.size)


def check_finite(scores: np.ndarray) -> None:
    """Raise ValueError if a score is not finite, because it has no rank."""
    if not np.isfinite(scores).all():
        raise ValueError("anomaly scores must be finite")


def counts_at(negative: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the negatives strictly above each value, and those at or above it; both arrays are sorted ascending."""
    below = np.searchsorted(negative, values)
    tied = np.flatnonzero(negative[np.minimum(below, negative.size - 1)] == values) if negative.size else below[:0]
    not_above = below.copy()
    not_above[tied] = np.searchsorted(negative, values[tied], side="right")
    return negative.size - not_above, negative.size - below


def roc_area(ranking: Ranking, limit: float = 1.0) -> float:
    """Area under the ROC curve up to the false positive rate `limit`, divided by `limit`; ties are diagonal lines."""
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


def log_roc_area(ranking: Ranking, low: float, high: float) -> float:
    """Mean recall over false positive rates from `low` to `high` on a logarithmic scale; ties are diagonal lines.

    A sum over positives, without a curve: a positive counts 0 at rates too low for its score, 1 at rates high
    enough, and rises linearly in between if negatives are tied with it.
    """
    a, b = ranking.false_above / ranking.negatives, ranking.false_from / ranking.negatives
    start, end = np.clip(a, low, high), np.clip(b, low, high)
    rising = (end - start) - a * np.log(end / start)
    tied = np.divide(rising, b - a, out=np.zeros_like(a), where=b > a)
    weights = np.diff(ranking.true_from, prepend=0)
    area = np.sum(weights * (tied + np.log(high / end)))
    return float(area / ranking.true_from[-1] / np.log(high / low))


def average_precision(ranking: Ranking) -> float:
    """Mean over the positives of the precision at each one's score, without interpolation."""
    precision = ranking.true_from / (ranking.true_from + ranking.false_from)
    gained = np.diff(ranking.true_from, prepend=0)
    return float(np.sum(gained * precision) / ranking.true_from[-1])


def precision_recall_trapezoid(ranking: Ranking) -> float:
    """Area under the precision-recall curve with straight lines between its points, one per distinct score.

    The curve starts at recall 0 with precision 1, as in scikit-learn. With few distinct scores, straight lines make
    the area too large.
    """
    before = np.concatenate([[0], ranking.true_from[:-1]])
    predicted = before + ranking.false_above
    start = np.divide(before, predicted, out=np.ones(before.size), where=predicted > 0)
    end = ranking.true_from / (ranking.true_from + ranking.false_from)
    return float(np.sum((ranking.true_from - before) * (start + end)) / 2 / ranking.true_from[-1])


def f1_max(ranking: Ranking) -> float:
    """F1 of the best threshold, which is always the score of a positive: anything lower only adds negatives."""
    predicted = ranking.true_from + ranking.false_from
    return float(np.max(2 * ranking.true_from / (predicted + ranking.true_from[-1])))
