"""Simulated coverage of the interval of comparisons, and how often chance is called a difference."""

import numpy as np
import pytest

from eval.metrics.compare import compare, interval
from tests.eval.rows import row

# Draws with mean zero.
DIFFERENCES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "gamma": lambda rng, size: rng.gamma(4, size=size) - 4,
    "log-normal": lambda rng, size: np.exp(0.5 * rng.normal(size=size)) - np.exp(0.125),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
    "negative exponential": lambda rng, size: 1 - rng.exponential(size=size),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
@pytest.mark.parametrize("categories", [6, 12])
def test_coverage_of_a_nominal_95_percent_is_93_to_97(categories, kind):
    draws = DIFFERENCES[kind](np.random.default_rng(7), (5000, categories))
    ends = np.array([interval(values) for values in draws.tolist()])
    covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("categories", range(1, 6))
def test_too_few_categories_have_no_interval_and_no_verdict(categories):
    rows = [
        row(weights, f"c{i}", 0.5 + 0.1 * (weights == "new") + 0.001 * seed, seed)
        for weights in ("base", "new")
        for i in range(categories)
        for seed in range(5)
    ]
    (found,) = compare(rows, "base")
    assert (found.low, found.high, found.verdict) == (None, None, "undecided")
    assert f"{categories} independent categories" in found.reason


def test_a_run_that_shifts_all_categories_is_covered_for_these_weights_but_not_for_other_runs():
    """Categories are the only unit: the interval is about the trained weights, not about their training."""
    rng = np.random.default_rng(0)
    of_weights = of_training = 0
    for _ in range(2000):
        runs = rng.normal(size=3)
        values = rng.normal(size=8) * 0.5 + runs.mean()
        low, high = interval(values.tolist())
        of_weights += low <= runs.mean() <= high
        of_training += low <= 0 <= high
    assert 0.93 <= of_weights / 2000 <= 0.97
    assert of_training / 2000 < 0.8


def test_groups_of_related_categories_count_as_one():
    """Boards that share a shift: with the boards as units, chance is called a difference far too often."""
    rng = np.random.default_rng(3)
    wrong = {(): 0, ("set/pcb_*",): 0}
    for _ in range(300):
        board = rng.normal()
        shifts = {f"pcb_{i}": board + 0.1 * rng.normal() for i in range(6)} | {f"c{i}": rng.normal() for i in range(6)}
        rows = [
            row(weights, category, 0.5 + 0.01 * shift * (weights == "new"))
            for category, shift in shifts.items()
            for weights in ("base", "new")
        ]
        for groups in wrong:
            (found,) = compare(rows, "base", groups)
            assert (found.categories, found.units) == (12, 7 if groups else 12)
            wrong[groups] += found.verdict != "undecided"
    assert wrong[("set/pcb_*",)] / 300 <= 0.08
    assert wrong[()] / 300 >= 0.15
