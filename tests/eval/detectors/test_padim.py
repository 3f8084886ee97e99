"""PaDiM against NumPy and SciPy, position by position."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from eval.detectors import gaussians
from eval.detectors.maps import anomaly_maps
from eval.detectors.padim import Padim
from tests.eval.detectors.reference import smoothed

SIDE = 32


def features(rng, images, scale=1.0, offset=0.0, sides=(8, 4, 2)):
    """Three layers of so many patches a side; 6 + 10 + 14 channels."""
    shapes = zip((6, 10, 14), sides, strict=True)
    arrays = [rng.normal(offset, scale, (images, channels, side, side)) for channels, side in shapes]
    return [torch.from_numpy(array.astype(np.float32)) for array in arrays]


def concatenated(layers):
    """Each layer repeated to the next finer grid, channels in the layers' order."""
    grown = layers[-1].double().numpy()
    for layer in reversed(layers[:-1]):
        side = layer.shape[-1]
        at = np.arange(side) * grown.shape[-1] // side
        grown = np.concatenate([layer.double().numpy(), grown[:, :, at][..., at]], axis=1)
    return grown


def covariance_of(samples, kind):
    if kind == "ledoit-wolf":
        return LedoitWolf().fit(samples).covariance_
    full = np.cov(samples, rowvar=False)
    return np.diag(np.diag(full)) if kind == "diagonal" else full


def reference(train, test, channels, kind="full"):
    train, test = concatenated(train)[:, channels], concatenated(test)[:, channels]
    images, dims, height, width = test.shape
    distances = np.zeros((images, height, width))
    for y in range(height):
        for x in range(width):
            samples = train[:, :, y, x]
            inverse = np.linalg.inv(covariance_of(samples, kind) + 0.01 * np.eye(dims))
            for i in range(images):
                distances[i, y, x] = mahalanobis(test[i, :, y, x], samples.mean(axis=0), inverse)
    return distances


def fitted(train, batch, dims, seed=0, covariance="full"):
    padim = Padim(SIDE, seed, dims, covariance)
    for start in range(0, len(train[0]), batch):
        padim.update([layer[start : start + batch] for layer in train])
    padim.fit()
    return padim


@pytest.mark.parametrize(("images", "batch"), [(40, 7), (40, 40), (5, 2), (40, 1)])
def test_equals_numpy_and_scipy(images, batch):
    rng = np.random.default_rng(1)
    train, test = features(rng, images), features(rng, 3)
    scores, maps = fitted(train, batch, dims=30)(test)
    expected = smoothed(reference(train, test, np.arange(30)), SIDE)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(scores.numpy(), expected.max(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("covariance", ["ledoit-wolf", "diagonal"])
@pytest.mark.parametrize(("images", "batch"), [(75, 7), (5, 2), (40, 40)])
def test_other_covariances_equal_scikit_learn(covariance, images, batch):
    rng = np.random.default_rng(8)
    train, test = features(rng, images, scale=2, offset=5), features(rng, 2, scale=2, offset=5)
    expected = smoothed(reference(train, test, np.arange(30), covariance), SIDE)
    _, maps = fitted(train, batch, dims=30, covariance=covariance)(test)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-4)


def test_drawn_channels_equal_the_reference_on_those_channels():
    rng = np.random.default_rng(2)
    train, test = features(rng, 25), features(rng, 2)
    channels = torch.randperm(30, generator=torch.Generator().manual_seed(5))[:11].sort().values.numpy()
    _, maps = fitted(train, 8, dims=11, seed=5)(test)
    np.testing.assert_allclose(maps.numpy(), smoothed(reference(train, test, channels), SIDE), rtol=1e-4)


@pytest.mark.parametrize("covariance", ["full", "ledoit-wolf", "diagonal"])
@pytest.mark.parametrize(("sides", "channels"), [((7, 4, 2), 30), ((4, 4, 4), 30), ((8, 8, 2), 30), ((8, 4, 2), 2)])
def test_any_grids_and_any_draw(sides, channels, covariance):
    rng = np.random.default_rng(7)
    train, test = features(rng, 25, sides=sides), features(rng, 2, sides=sides)
    kept = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:channels].sort().values.numpy()
    _, maps = fitted(train, 8, dims=channels, covariance=covariance)(test)
    assert channels == 30 or set(kept) <= set(range(6, 16)), "of the middle layer alone"
    expected = reference(train, test, kept, covariance)
    np.testing.assert_allclose(maps.numpy(), smoothed(expected, SIDE), rtol=1e-4)


def test_large_offset_and_scale_stay_exact():
    rng = np.random.default_rng(3)
    train, test = features(rng, 60, scale=10, offset=300), features(rng, 2, scale=10, offset=300)
    _, maps = fitted(train, 9, dims=30)(test)
    np.testing.assert_allclose(maps.numpy(), smoothed(reference(train, test, np.arange(30)), SIDE), rtol=1e-3)


def test_one_training_image_works():
    rng = np.random.default_rng(4)
    train = features(rng, 1)
    scores, maps = fitted(train, 1, dims=30)(train)
    assert torch.allclose(maps, torch.zeros_like(maps), atol=1e-4)
    other, _ = fitted(train, 1, dims=30)(features(rng, 1))
    assert other > scores


def test_seed_draws_the_channels():
    rng = np.random.default_rng(5)
    train, test = features(rng, 20), features(rng, 2)
    first, again, other = (fitted(train, 20, dims=9, seed=s)(test)[1] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(("grid", "side"), [((8, 8), 32), ((7, 5), 20), ((3, 3), 10)])
def test_maps_equal_pillow_and_scipy(grid, side):
    distances = np.random.default_rng(6).random((2, *grid)).astype(np.float32)
    found = anomaly_maps(torch.from_numpy(distances), side).numpy()
    np.testing.assert_allclose(found, smoothed(distances, side), rtol=1e-4)


@pytest.mark.parametrize(("channels", "kept"), [(152, 100), (448, 100), (1792, 550), (40, 40)])
def test_default_dims_are_the_papers(channels, kept):
    padim = Padim(SIDE, seed=0)
    padim.update([torch.randn(2, channels, 1, 1)])
    padim.fit()
    assert len(padim.channels) == kept


def test_precisions_agree(monkeypatch):
    rng = np.random.default_rng(9)
    train, test = features(rng, 40, scale=1.5, offset=2), features(rng, 2, scale=1.5, offset=2)
    single = fitted(train, 40, dims=30)(test)[1]
    monkeypatch.setattr(gaussians, "_FLOAT32_RANGE", 0)
    double = fitted(train, 40, dims=30)(test)[1]
    assert not torch.equal(single, double)
    torch.testing.assert_close(single, double, rtol=1e-5, atol=0)


def test_detector_takes_less_than_a_covariance_a_finest_position():
    rng = np.random.default_rng(10)
    state = fitted(features(rng, 40), 40, dims=30).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) < 0.4 * 64 * 30 * 30
