"""Random numbers that depend on (seed, epoch, sample, stream) alone."""

import numpy as np
from scipy import stats

from train.views.randomness import permutation, uniforms


def test_a_sample_gets_the_same_numbers_in_any_batch():
    whole = uniforms(3, 5, np.arange(100), "crop 0", 7)
    for part in (np.array([17]), np.array([99, 17, 0]), np.arange(10, 40)):
        assert np.array_equal(uniforms(3, 5, part, "crop 0", 7), whole[part])


def test_any_change_of_key_changes_the_numbers():
    base = uniforms(0, 0, np.arange(50), "a", 4)
    for other in (
        uniforms(1, 0, np.arange(50), "a", 4),
        uniforms(0, 1, np.arange(50), "a", 4),
        uniforms(0, 0, np.arange(50) + 50, "a", 4),
        uniforms(0, 0, np.arange(50), "b", 4),
    ):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.25
        assert not np.isin(other, base).any()


def test_numbers_are_uniform_and_independent():
    numbers = uniforms(0, 0, np.arange(20000), "x", 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    columns = np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]
    assert abs(neighbours) < 0.03
    assert abs(columns) < 0.03


def test_pinned_values():
    """Changing them would silently change every run ever made."""
    np.testing.assert_array_equal(
        uniforms(0, 0, np.array([0, 1]), "crop 0", 2), uniforms(0, 0, np.array([0, 1]), "crop 0", 3)[:, :2]
    )
    first = uniforms(7, 2, np.array([5]), "weak positive", 1)[0, 0]
    assert first == 0.8524730361210916


def test_permutation_visits_every_sample_once_in_a_new_order_each_epoch():
    orders = [permutation(0, epoch, 1000) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[1], permutation(0, 1, 1000))
