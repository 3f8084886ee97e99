"""Nearest neighbours against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from train.monitor.knn import knn_top1


@pytest.mark.parametrize("neighbours", [5, 200])
def test_neighbours_in_a_bank_vote_as_scikit_learns_do(neighbours: int):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(5, 16))
    labels = rng.integers(0, 5, 500)
    features = centres[labels] + rng.normal(size=(500, 16)) * 2
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    theirs = KNeighborsClassifier(neighbours, weights=lambda d: np.exp((-(d**2) / 2) / 0.1), algorithm="brute")
    expected = theirs.fit(unit[:300], labels[:300]).score(unit[300:], labels[300:])
    f, y = torch.from_numpy(features), torch.from_numpy(labels)
    found = knn_top1(f[300:], y[300:], (f[:300], y[:300]), neighbours, 0.1)
    assert 0.3 < expected < 0.98
    assert found == pytest.approx(expected)


def test_nearest_neighbours_vote_as_scikit_learns_do():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16))
    labels = rng.integers(0, 5, 200)
    features = centres[labels] + rng.normal(size=(200, 16)) * 1.5
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for i in range(200):  # each against all others
        others = np.arange(200) != i
        theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2 - 1) / 0.07), algorithm="brute")
        right += theirs.fit(unit[others], labels[others]).predict(unit[[i]])[0] == labels[i]
    assert 0.3 < right / 200 < 0.95
    assert knn_top1(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(right / 200)
