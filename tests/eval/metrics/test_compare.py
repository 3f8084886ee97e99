"""Differences between weights: paired, with an interval that is right, and a verdict that is honest about n."""

import itertools

import numpy as np
import pytest
from scipy import stats

from eval.metrics.compare import DRAWS, MIN_CATEGORIES, compare, interval
from tests.eval.rows import even, row, rows_of


def test_metrics_that_nobody_has_are_left_out():
    rows = rows_of(even(3, [0.1])) + [row(w, "c0", None, metric="pixel_aupr") for w in ("base", "new")]
    rows += [row("new", "c0", 0.5, metric="pixel_auroc"), row("base", "c0", None, metric="pixel_auroc")]
    assert [c.metric for c in compare(rows, "base")] == ["image_auroc", "pixel_auroc"]


def test_interval_is_that_of_all_possible_draws():
    differences = [[0.01], [0.05], [-0.02], [0.03]]
    means = [np.mean([d[0] for d in drawn]) for drawn in itertools.product(differences, repeat=4)]
    tail = stats.norm.cdf(np.sqrt(4 / 3) * stats.t.ppf(0.025, 3))
    assert interval(differences) == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=0.003)


def test_interval_equals_a_loop_over_the_draws():
    differences = [[0.01, 0.04, -0.02], [0.05], [-0.02, 0.03], [0.0, 0.1], [0.02, 0.02, 0.07], [0.01, 0.0]]
    rng = np.random.default_rng(0)
    categories, uniforms = rng.integers(0, 6, (DRAWS, 6)), rng.random((DRAWS, 6, 3))
    means = []
    for drawn, chances in zip(categories, uniforms, strict=True):
        of_draw = []
        for category, chance in zip(drawn, chances, strict=True):
            seeds = differences[category]
            of_draw.append(np.mean([seeds[int(u * len(seeds))] for u in chance[: len(seeds)]]))
        means.append(np.mean(of_draw))
    tail = stats.norm.cdf(np.sqrt(6 / 5) * stats.t.ppf(0.025, 5))
    assert interval(differences) == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=1e-12)


@pytest.mark.parametrize("categories", [6, 12])
def test_chance_is_rarely_called_a_difference(categories):
    rng = np.random.default_rng(1)
    draws = [interval(rng.normal(size=(categories, 1)).tolist()) for _ in range(200)]
    assert sum(low > 0 or high < 0 for low, high in draws) <= 200 * 0.1


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


def test_few_categories_decide_nothing_whatever_the_seeds():
    for count in range(1, MIN_CATEGORIES):
        (found,) = compare(rows_of({f"c{i}": [0.1, 0.11, 0.12, 0.13, 0.14] for i in range(count)}), "base")
        assert found.verdict == "undecided"
        assert found.reason
        assert (found.low is None) == (count == 1)


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
