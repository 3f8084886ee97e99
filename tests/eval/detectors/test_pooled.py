"""Whole-image detectors against scikit-learn and SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from eval.detectors.pooled import Gaussian, NearestNeighbours


def maps(rng, images, channels=40, offset=3.0):
    shape = (images, channels, 4, 4)
    scales = np.linspace(0.2, 3, channels)[:, None, None]
    return torch.from_numpy((rng.normal(size=shape) * scales + offset).astype(np.float32))


def fitted(detector, train, batch=4):
    for first in range(0, len(train), batch):
        detector.update([train[first : first + batch]])
    detector.fit()
    return detector


@pytest.mark.parametrize("images", [3, 15, 200])
def test_gaussian_equals_scikit_learn_and_scipy(images):
    rng = np.random.default_rng(images)
    train, test = maps(rng, images), maps(rng, 5)
    pooled = train.double().mean((2, 3)).numpy()
    reference = LedoitWolf().fit(pooled)
    scores, found = fitted(Gaussian(), train)([test])
    expected = [
        mahalanobis(x, reference.location_, np.linalg.inv(reference.covariance_))
        for x in test.double().mean((2, 3)).numpy()
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert found is None


@pytest.mark.parametrize("images", [1, 2, 30])
def test_neighbours_equal_scikit_learn(images):
    rng = np.random.default_rng(images)
    train, test = maps(rng, images, offset=100), maps(rng, 5, offset=100)
    reference = NearestNeighbors(n_neighbors=min(2, images)).fit(train.double().mean((2, 3)).numpy())
    expected = reference.kneighbors(test.double().mean((2, 3)).numpy())[0].mean(axis=1)
    scores, found = fitted(NearestNeighbours(), train)([test])
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert found is None


@pytest.mark.parametrize("method", [Gaussian, NearestNeighbours])
def test_identical_training_images_still_rank(method):
    rng = np.random.default_rng(0)
    image = maps(rng, 1)
    detector = fitted(method(), image.repeat(3, 1, 1, 1))
    same, _ = detector([image])
    other, _ = detector([maps(rng, 1)])
    assert torch.isfinite(other).all()
    assert same < other
