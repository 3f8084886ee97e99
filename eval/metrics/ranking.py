"""Areas and maxima of ROC and precision-recall curves, exact, from counts at the positives' scores.

Every metric here needs, at each distinct score of a positive, how many positives and how many negatives lie at
or above it; between these scores only negatives change, and no metric needs to know where.
"""

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """Cumulative counts at the distinct scores of the positives, highest score first."""

    false_above: np.ndarray  # negatives strictly above the score
    false_from: np.ndarray  # negatives at or above it
    true_from: np.ndarray  # positives at or above it, each counted with its weight
    negatives: int


def rank(positive: np.ndarray, negative: np.ndarray) -> Ranking:
    """Rank scores of positives among those of negatives; both floating, finite, one-dimensional.

    Raises:
        ValueError: A score is not finite.
    """
    check_finite(positive)
    check_finite(negative)
    values, counts = np.unique(positive, return_counts=True)
    above, from_ = counts_at(np.sort(negative), values)
    return Ranking(above[::-1], from_[::-1], np.cumsum(counts[::-1]), negative.size)


def check_finite(scores: np.ndarray) -> None:
    """Raise ValueError where a score is not finite: it has no rank."""
    if not np.isfinite(scores).all():
        raise ValueError("anomaly scores must be finite")


def counts_at(negative: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of `negative` (sorted) lie strictly above each of `values` (sorted), and how many at or above."""
    below = np.searchsorted(negative, values)
    tied = np.flatnonzero(negative[np.minimum(below, negative.size - 1)] == values) if negative.size else below[:0]
    not_above = below.copy()
    not_above[tied] = np.searchsorted(negative, values[tied], side="right")
    return negative.size - not_above, negative.size - below


def roc_area(ranking: Ranking, limit: float = 1.0) -> float:
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


def log_roc_area(ranking: Ranking, low: float, high: float) -> float:
    """Mean recall over false positive rates from `low` to `high`, each decade alike; ties are diagonals.

    A positive counts 1 at every rate that its score reaches, 0 below, and rises linearly in the rate where
    negatives are tied with it: a sum over positives, without a curve.
    """
    a, b = ranking.false_above / ranking.negatives, ranking.false_from / ranking.negatives
    start, end = np.clip(a, low, high), np.clip(b, low, high)
    rising = (end - start) - a * np.log(end / start)
    tied = np.divide(rising, b - a, out=np.zeros_like(a), where=b > a)
    weights = np.diff(ranking.true_from, prepend=0)
    area = np.sum(weights * (tied + np.log(high / end)))
    return float(area / ranking.true_from[-1] / np.log(high / low))


def average_precision(ranking: Ranking) -> float:
    """Precision at each positive's score, averaged over the positives: no interpolation."""
    precision = ranking.true_from / (ranking.true_from + ranking.false_from)
    gained = np.diff(ranking.true_from, prepend=0)
    return float(np.sum(gained * precision) / ranking.true_from[-1])


def precision_recall_trapezoid(ranking: Ranking) -> float:
    """Area under straight lines between the points of the precision-recall curve.

    The curve has a point at every distinct score; the lines rise from the last one above a positive's score,
    and from precision 1 where nothing is above. Too high where few scores are distinct.
    """
    before = np.concatenate([[0], ranking.true_from[:-1]])
    predicted = before + ranking.false_above
    start = np.divide(before, predicted, out=np.ones(before.size), where=predicted > 0)
    end = ranking.true_from / (ranking.true_from + ranking.false_from)
    return float(np.sum((ranking.true_from - before) * (start + end)) / 2 / ranking.true_from[-1])


def f1_max(ranking: Ranking) -> float:
    """The F1 of the best threshold, which is always some positive's score: below it only negatives are added."""
    predicted = ranking.true_from + ranking.false_from
    return float(np.max(2 * ranking.true_from / (predicted + ranking.true_from[-1])))
