"""The maps against an independent implementation, and the decision on features where the right one is known."""

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from eval.detectors.methods import Settings, build_detectors
from eval.inspection.adaptation.guard import MINIMUM, Trial, contributions, cross_fitted, decide
from eval.inspection.adaptation.maps import BALANCE, ENERGY, SHRINKAGE, learn_maps
from eval.inspection.features import FeatureStore

SIDE = 16
SETTINGS = Settings(image_size=SIDE, coreset_ratio=0.5)


def build(indices):
    return build_detectors("patchcore", SETTINGS, [0], len(indices))[0]


def stored(layers: list[np.ndarray]) -> FeatureStore:
    store = FeatureStore(len(layers[0]))
    store.append([torch.from_numpy(layer.astype(np.float32)) for layer in layers])
    return store


def good_parts(count: int = 24, nuisance: float = 3.0, seed: int = 0) -> list[np.ndarray]:
    """Two layers, 4 + 6 channels. A fixed pattern, grain, and large differences between parts in the first channel."""
    rng = np.random.default_rng(seed)
    layers = []
    for channels, side in ((4, 4), (6, 2)):
        pattern = np.random.default_rng(9).normal(0, 1, (1, channels, side, side))
        layer = pattern + 0.1 * rng.normal(size=(count, channels, side, side))
        layer[:, 0] += nuisance * rng.normal(size=(count, 1, 1))
        layers.append(layer)
    return layers


def defective(layers: list[np.ndarray], channel: int, size: float) -> list[np.ndarray]:
    """Copies of parts in which one channel is raised at one place."""
    copies = [layer.copy() for layer in layers]
    copies[0][:, channel, 1:3, 1:3] += size
    return copies


def areas(channel: int, size: float, nuisance: float = 3.0) -> tuple[float, float]:
    layers = good_parts(nuisance=nuisance)
    bad = defective(layers, channel, size)
    trial = Trial(stored(layers), stored(bad), list(range(len(bad[0]))))
    plain, adapted = cross_fitted(trial, build, lambda *_: None).mean(axis=0)
    return plain, adapted


def test_maps_are_the_formula():
    store = stored(good_parts())
    chosen = [1, 2, 5, 8, 11, 17, 20, 23]
    order = np.random.default_rng(0).permutation(chosen)
    for layer, found in enumerate(learn_maps(store, chosen)):
        maps = np.concatenate([batch[layer].double().numpy() for batch in store.batches(order)])
        patches = uniform_filter(maps, (0, 0, 3, 3), mode="constant").transpose(0, 2, 3, 1)
        halves = [patches[half::2].reshape(-1, patches.shape[-1]) for half in range(2)]
        differences = np.concatenate([a - b[cdist(a, b).argmin(1)] for a, b in (halves, halves[::-1])])
        moment = differences.T @ differences / len(differences)
        shrunk = moment + SHRINKAGE * np.trace(moment) / len(moment) * np.eye(len(moment))
        expected = fractional_matrix_power(shrunk, -0.5)
        expected *= (ENERGY * BALANCE**-layer / np.square(differences @ expected).sum(1).mean()) ** 0.5
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_maps_come_from_the_chosen_parts_only():
    layers = good_parts()
    changed = [layer.copy() for layer in layers]
    for layer in changed:
        layer[12:] *= 5
    first, second = (learn_maps(stored(one), range(12)) for one in (layers, changed))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_identical_parts_leave_the_features_as_they_are():
    layers = [np.repeat(layer[:1], 6, axis=0) for layer in good_parts()]
    assert [m.tolist() for m in learn_maps(stored(layers), range(6))] == [np.eye(4).tolist(), np.eye(6).tolist()]


def test_adaptation_finds_what_differences_between_good_parts_hide():
    plain, adapted = areas(channel=2, size=1.5)
    assert plain < 0.85
    assert adapted > plain + 0.1


def test_adaptation_is_worse_where_defects_look_like_those_differences():
    """The first channel varies most among good parts; adaptation turns it down, and with it the defects there."""
    plain, adapted = areas(channel=0, size=6.0, nuisance=1.0)
    assert plain > adapted + 0.01


class Unused:
    """Any use fails."""


def test_too_few_parts_are_not_even_looked_at(tmp_path):
    verdict = decide(Unused(), [tmp_path / "none.png"] * (MINIMUM - 1), "square", 0, Unused(), 0)
    assert not verdict.adapt
    assert verdict.plain is None
    assert str(MINIMUM) in verdict.note


def test_contributions_average_to_the_area_and_tell_its_error():
    """Against scikit-learn's area, and the spread of areas over many draws of parts."""
    rng = np.random.default_rng(0)
    areas, errors = [], []
    for _ in range(300):
        part = rng.normal(size=30)  # what a part and its copies have in common
        good, bad = part + rng.normal(0, 0.5, 30), np.repeat(part, 2) + 0.8 + rng.normal(0, 0.5, 60)
        wins = (bad[:, None] > good) + 0.0
        found = contributions(wins, np.repeat(np.arange(30), 2), np.arange(30))
        areas.append(roc_auc_score([1] * 60 + [0] * 30, np.concatenate([bad, good])))
        assert found.mean() == pytest.approx(areas[-1])
        errors.append(found.std(ddof=1) / 30**0.5)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.15)
