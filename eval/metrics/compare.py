"""Is one weight better than another, or is the difference within what chance would give?

The unit is the category: a bootstrap draws categories with replacement and, inside each, its seeds. What it
answers is "would other categories like these agree?", which seeds alone cannot.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from .means import Key, distinct, group_rows, mean_over_categories
from .metrics import in_table_order

DRAWS = 10_000
CONFIDENCE = 0.95
# If all of n categories agree by chance alone, which happens in 2 / 2^n of cases, is below 5 % from n = 6 on.
MIN_CATEGORIES = 6


@dataclass(frozen=True)
class Comparison:
    """One metric of one weight against the baseline, over the (category, seed) pairs that both have.

    Attributes:
        difference: Weights minus baseline: mean over categories of the mean over seeds; a fraction.
        low: Lower end of the interval; None where there is one category.
        high: Upper end.
        verdict: "better" or "worse" where the interval excludes 0, else "undecided".
        categories: How many categories both have.
        pairs: How many (category, seed) pairs both have.
        reason: Why nothing can be decided, where that is not for the interval to say.
    """

    dataset: str
    protocol: str
    method: str
    metric: str
    weights: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    verdict: str
    categories: int
    pairs: int
    reason: str | None = None

    @property
    def key(self) -> Key:
        """Data set, protocol and method."""
        return self.dataset, self.protocol, self.method


def compare(rows: Sequence[dict[str, Any]], baseline: str) -> list[Comparison]:
    """Compare every other weight with `baseline`, for each data set, protocol, method and metric.

    Args:
        rows: Of results.json.
        baseline: The `weights` of some rows.
    """
    found = []
    for key, group in group_rows(rows).items():
        cells: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
        for row in group:
            of_weights = cells.setdefault((row["weights"], row["metric"]), {})
            if row["value"] is not None:
                of_weights[row["category"], row["seed"]] = row["value"]
        if not any(weights == baseline for weights, _ in cells):
            continue
        for weights in distinct(weights for weights, _ in cells if weights != baseline):
            for metric in in_table_order(metric for of, metric in cells if of == weights):
                pairs = (cells[weights, metric], cells.get((baseline, metric), {}))
                if not any(pairs):  # a pixel metric of a method without maps
                    continue
                found.append(Comparison(*key, metric, weights, baseline, *_decide(*pairs)))
    return found


def _decide(
    weights: dict[tuple[str, int], float], baseline: dict[tuple[str, int], float]
) -> tuple[float | None, float | None, float | None, str, int, int, str | None]:
    """The fields of a Comparison from `difference` on."""
    differences: dict[str, dict[int, float]] = {}
    for category, seed in sorted(weights.keys() & baseline.keys()):
        differences.setdefault(category, {})[seed] = weights[category, seed] - baseline[category, seed]
    count, pairs = len(differences), sum(map(len, differences.values()))
    if not count:
        return None, None, None, "undecided", 0, 0, "no category has the metric for both"
    mean = mean_over_categories(differences)
    if count == 1:
        return mean, None, None, "undecided", 1, pairs, "one category says nothing about others"
    low, high = interval([list(seeds.values()) for seeds in differences.values()])
    if count < MIN_CATEGORIES:
        reason = f"{count} categories; with fewer than {MIN_CATEGORIES}, all may agree by chance"
        return mean, low, high, "undecided", count, pairs, reason
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return mean, low, high, verdict, count, pairs, None


def interval(differences: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bootstrap interval of the mean over categories of the mean over seeds.

    Percentile bootstrap, its percentiles moved outwards as Student's t and the n / (n - 1) of the variance
    ask (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 3.3): plain percentiles
    of 6 or 12 categories would be too narrow. Deterministic.

    Args:
        differences: The seeds' values of each of at least two categories.

    Returns:
        The ends.
    """
    count, seeds = len(differences), max(map(len, differences))
    sizes = np.array([len(values) for values in differences])
    values = np.zeros((count, seeds))
    for row, of_category in zip(values, differences, strict=True):
        row[: len(of_category)] = of_category
    categories, uniforms = _draws(count, seeds)
    drawn = sizes[categories][..., None]
    chosen = values[categories[..., None], (uniforms * drawn).astype(np.int64)]
    within = np.arange(seeds) < drawn
    means = (np.where(within, chosen, 0.0).sum(axis=-1) / drawn[..., 0]).mean(axis=-1)
    tail = ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - CONFIDENCE) / 2))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def _draws(count: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Categories [DRAWS, count], and numbers in [0, 1) that choose their seeds [DRAWS, count, seeds]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, count, (DRAWS, count)), rng.random((DRAWS, count, seeds))
