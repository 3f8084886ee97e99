"""Differences between weights: paired, with an interval that is right, and a verdict that is honest about n."""

import numpy as np
import pytest
from scipy import optimize, stats

from eval.metrics.compare import compare, interval
from tests.eval.rows import even, row, rows_of


def test_metrics_that_nobody_has_are_left_out():
    rows = rows_of(even(3, [0.1])) + [row(w, "c0", None, metric="pixel_aupr") for w in ("base", "new")]
    rows += [row("new", "c0", 0.5, metric="pixel_auroc"), row("base", "c0", None, metric="pixel_auroc")]
    assert [c.metric for c in compare(rows, "base")] == ["image_auroc", "pixel_auroc"]


def hall(values, quantile):
    """Hall's transformation inverted by root finding instead of by formula."""
    count, mean, deviation = len(values), np.mean(values), np.std(values, ddof=1)
    skewness, root = stats.skew(values, bias=False), np.sqrt(count)

    def transformed(t):
        return t + skewness * t**2 / (3 * root) + skewness**2 * t**3 / (27 * count) + skewness / (6 * root)

    t = optimize.brentq(lambda t: transformed(t) - quantile, -1e4, 1e4, xtol=1e-12)
    return mean - deviation / root * t


@pytest.mark.parametrize("seed", range(4))
def test_interval_inverts_halls_transformation(seed):
    values = np.random.default_rng(seed).gamma(1 + seed, size=6 + 3 * seed).tolist()
    quantile = stats.t.ppf(0.98, len(values) - 1)
    assert interval(values) == pytest.approx((hall(values, quantile), hall(values, -quantile)), abs=1e-8)


def test_interval_of_symmetric_differences_is_students():
    values = [-3.0, -1.0, -0.5, 0.5, 1.0, 3.0]
    assert interval(values) == pytest.approx(stats.t.interval(0.96, 5, 0, np.std(values, ddof=1) / np.sqrt(6)))
    assert interval([0.25] * 6) == (0.25, 0.25)
    low, high = interval([0.0, 1.0, 0.1, 5.0, 0.2, 0.3])
    assert interval([-0.0, -1.0, -0.1, -5.0, -0.2, -0.3]) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.02, 0.03], "better"), ([-0.02, -0.03], "worse"), ([0.02, -0.02], "undecided"), ([0.0], "undecided")],
)
def test_verdicts(values, verdict):
    (found,) = compare(rows_of(even(8, values)), "base")
    assert found.verdict == verdict
    assert found.difference == pytest.approx(np.mean(values), abs=1e-9)
    assert (found.categories, found.pairs, found.reason) == (8, 8, None)


def test_swapping_the_baseline_swaps_the_verdict():
    rows = rows_of(even(7, [0.01, 0.02, 0.05]))
    (found,), (swapped,) = compare(rows, "base"), compare(rows, "new")
    assert (found.verdict, swapped.verdict) == ("better", "worse")
    assert swapped.difference == pytest.approx(-found.difference)


def test_a_difference_within_the_spread_over_seeds_is_undecided():
    steady = rows_of({f"c{i}": [0.02 + 0.001 * i, 0.021 + 0.001 * i] for i in range(6)})
    noisy = rows_of({f"c{i}": [0.07 + 0.001 * i, -0.029 + 0.001 * i] for i in range(6)})
    (decided,), (undecided,) = compare(steady, "base"), compare(noisy, "base")
    assert decided.verdict == "better"
    assert decided.spread == pytest.approx(np.std([0, 0.001], ddof=1))
    assert undecided.difference == pytest.approx(decided.difference)
    assert undecided.low > 0
    assert (undecided.verdict, undecided.reason) == ("undecided", "the difference is within the spread over seeds")


def test_only_pairs_that_both_have_count():
    rows = rows_of({"a": [0.1, 0.3], "b": [0.2], "c": [0.4]})
    rows.append(row("new", "a", 0.0, seed=7))
    rows.append(row("base", "d", 0.0))
    rows = [r | {"value": None} if r["weights"] == "base" and r["category"] == "c" else r for r in rows]
    (found,) = compare(rows, "base")
    assert found.difference == pytest.approx((0.2 + 0.2) / 2)
    assert (found.categories, found.pairs) == (2, 3)


def test_metric_that_the_baseline_lacks():
    rows = [row("base", "a", 0.5), row("new", "a", 0.5), row("new", "a", 0.5, metric="pixel_aupr")]
    found = {c.metric: c for c in compare(rows, "base")}
    assert found["pixel_aupr"].difference is None
    assert found["pixel_aupr"].reason == "no category has the metric for both"


def test_protocols_and_methods_are_not_mixed():
    rows = rows_of(even(6, [0.1])) + [r | {"method": "knn"} for r in rows_of(even(6, [-0.1]))]
    assert [(c.method, c.verdict) for c in compare(rows, "base")] == [("padim", "better"), ("knn", "worse")]
