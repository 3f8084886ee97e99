"""Planning: power against simulation, and the split of noise into categories and seeds."""

import numpy as np
import pytest

from eval.metrics.compare import interval
from eval.metrics.power import estimate_noise, power, seeds_needed, units_needed


@pytest.mark.parametrize(("difference", "units"), [(0.5, 12), (1.0, 6), (1.0, 15)])
def test_power_is_how_often_normal_differences_are_detected(difference, units):
    draws = np.random.default_rng(0).normal(difference, 1, (4000, units))
    detected = np.mean([interval(values)[0] > 0 for values in draws.tolist()])
    assert power(difference, 1, units) == pytest.approx(detected, abs=0.06)  # of plain t


def test_smallest_number_that_suffices():
    needed = units_needed(1, 1.5, 0.8)
    assert power(1, 1.5, needed) >= 0.8 > power(1, 1.5, needed - 1)
    assert units_needed(100, 1, 0.8) == 6
    assert units_needed(0.001, 1, 0.8) is None
    assert units_needed(-1, 1.5, 0.8) == needed


def test_noise_of_categories_and_seeds_is_separated():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 2, 400)
    pairs = {i: dict(enumerate(true[i] + rng.normal(0, 3, 4))) for i in range(400)}
    noise = estimate_noise(pairs, lambda category: category)
    assert noise.categories == pytest.approx(2, rel=0.15)
    assert noise.seeds == pytest.approx(3, rel=0.05)
    assert noise.deviation(9) == pytest.approx(np.sqrt(2**2 + 1), rel=0.15)


def test_noise_with_one_seed_or_one_category():
    noise = estimate_noise({i: {0: float(i % 2)} for i in range(10)}, lambda category: category)
    assert noise.seeds is None
    assert noise.deviation(1) == pytest.approx(np.std([0, 1] * 5, ddof=1))
    assert estimate_noise({0: {0: 1.0, 1: 2.0}}, lambda category: category) is None
    assert estimate_noise({}, lambda category: category) is None


def test_seeds_bring_the_standard_error_down():
    assert seeds_needed(4.7, 0.5) == 89
    assert seeds_needed(0.1, 0.5) == 1
