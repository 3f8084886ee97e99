"""Is one weight better than another, or is the difference within what chance would give?

The unit is the category: a bootstrap draws categories with replacement and, inside each, its seeds. What it
answers is "would other categories like these agree?", which seeds alone cannot.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.special import ndtr, stdtrit

from spd_weights.files import write_json

from ..report.tables import TITLES, grouped, match_weights, ordered_metrics, rich_view, short_names
from ..results import read_results

SCHEMA = 1
COMPARISON = "compare.json"
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


def compare(rows: Sequence[dict[str, Any]], baseline: str) -> list[Comparison]:
    """Compare every other weight with `baseline`, for each data set, protocol, method and metric.

    Args:
        rows: Of results.json.
        baseline: The `weights` of some rows.
    """
    found = []
    for key, group in grouped(rows).items():
        cells: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
        for row in group:
            of_weights = cells.setdefault((row["weights"], row["metric"]), {})
            if row["value"] is not None:
                of_weights[row["category"], row["seed"]] = row["value"]
        if not any(weights == baseline for weights, _ in cells):
            continue
        for weights in dict.fromkeys(weights for weights, _ in cells if weights != baseline):
            for metric in ordered_metrics(metric for of, metric in cells if of == weights):
                pairs = (cells[weights, metric], cells.get((baseline, metric), {}))
                if not any(pairs):  # a pixel metric of a method without maps
                    continue
                found.append(Comparison(*key, metric, weights, baseline, *_decide(*pairs)))
    return found


def write_comparison(folder: Path, baseline: str, console: Console) -> Path:
    """Compare the weights in `folder`/results.json, print the tables and write `folder`/compare.json.

    Args:
        folder: The --out of an evaluation.
        baseline: Name of the weights to compare with, in full or as the tables shorten it.
        console: To print on.

    Raises:
        SpdError: No results, or no such weights among them, or no others.
    """
    rows = read_results(folder)["rows"]
    baseline = match_weights(rows, baseline)
    comparisons = compare(rows, baseline)
    print_comparison(comparisons, console)
    content = {"schema": SCHEMA, "baseline": baseline, "confidence": CONFIDENCE, "draws": DRAWS}
    write_json(folder / COMPARISON, {**content, "comparisons": [asdict(c) for c in comparisons]})
    return folder / COMPARISON


def print_comparison(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print one table a (data set, protocol, method, weights), in percentage points."""
    names = short_names(list(dict.fromkeys(name for c in comparisons for name in (c.baseline, c.weights))))
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for comparison in comparisons:
        key = (comparison.dataset, comparison.protocol, comparison.method)
        groups.setdefault((*key, comparison.weights), []).append(comparison)
    for (*where, weights), group in groups.items():
        console.print(f"\n{' · '.join(where)}: {names[weights]} − {names[group[0].baseline]} (points)", style="bold")
        view = rich_view("metric", "difference", "95 % interval", "verdict", "n")
        for comparison in group:
            view.add_row(TITLES[comparison.metric], *texts(comparison))
        console.print(view)
        for note in comparison_notes(group):
            console.print(f"  {note}", style="dim", soft_wrap=True)


def texts(comparison: Comparison) -> tuple[str, str, str, str]:
    """Difference, interval, verdict, and the number of categories (pairs, where there are several seeds)."""
    c = comparison
    count = str(c.categories) if c.pairs == c.categories else f"{c.categories} ({c.pairs} pairs)"
    if c.difference is None:
        return "–", "–", c.verdict, count
    interval = "–" if c.low is None or c.high is None else f"{100 * c.low:+.1f} to {100 * c.high:+.1f}"
    return f"{100 * c.difference:+.1f}", interval, c.verdict, count


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know about verdicts and about those withheld."""
    notes = [f"undecided: {reason}" for reason in dict.fromkeys(c.reason for c in comparisons if c.reason)]
    if any(c.low is not None for c in comparisons):
        notes.append(
            "interval: bootstrap over categories, seeds inside; each metric by itself, so of 20 metrics "
            "without a difference one is expected to look decided"
        )
    return notes


def _decide(
    weights: dict[tuple[str, int], float], baseline: dict[tuple[str, int], float]
) -> tuple[float | None, float | None, float | None, str, int, int, str | None]:
    """The fields of a Comparison from `difference` on."""
    differences: dict[str, list[float]] = {}
    for category, seed in sorted(weights.keys() & baseline.keys()):
        differences.setdefault(category, []).append(weights[category, seed] - baseline[category, seed])
    count, pairs = len(differences), sum(map(len, differences.values()))
    if not count:
        return None, None, None, "undecided", 0, 0, "no category has the metric for both"
    mean = float(np.mean([np.mean(values) for values in differences.values()]))
    if count == 1:
        return mean, None, None, "undecided", 1, pairs, "one category says nothing about others"
    low, high = interval(list(differences.values()))
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
