"""The maps against an independent implementation, and the decision on features where the right one is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import fractional_matrix_power
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from eval.detectors.methods import Settings, build_detectors
from eval.detectors.one_class import extractor_for
from eval.inspection.adaptation.defects import KINDS
from eval.inspection.adaptation.guard import Gain, Trial, adapts, contributions, cross_fitted, draw_trial
from eval.inspection.adaptation.maps import BALANCE, ENERGY, SHRINKAGE, learn_maps
from eval.inspection.features import FeatureStore
from tests.eval.helpers import RANDOM

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


def measured(channel: int, size: float, nuisance: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Detection and localisation, each with plain and with adapted features."""
    layers = good_parts(nuisance=nuisance)
    bad = defective(layers, channel, size)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4] = True
    count = len(layers[0])
    trial = Trial(stored(layers), stored(bad), list(range(count)), ["spotted"] * count, [mask[::2, ::2]] * count)
    detection, localisation = cross_fitted(trial, build, lambda *_: None)
    return detection.mean(axis=0), localisation.mean(axis=0)


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


def test_adaptation_finds_and_outlines_what_differences_between_good_parts_hide():
    (plain, adapted), (blurred, sharp) = measured(channel=2, size=1.5)
    assert plain < 0.85
    assert adapted > plain + 0.1
    assert sharp > blurred + 0.02


def test_adaptation_is_worse_where_defects_look_like_those_differences():
    """The first channel varies most among good parts; adaptation turns it down, and with it the defects there."""
    (plain, adapted), _ = measured(channel=0, size=6.0, nuisance=1.0)
    assert plain > adapted + 0.01


def test_detection_must_gain_surely_and_every_kind_must_be_outlined_better():
    sure, likely, unlikely = (Gain(0.5, 0.5 + gain, 0.05) for gain in (0.09, 0.07, 0.04))
    assert adapts(sure, {"spotted": likely, "blurred": sure})
    assert not adapts(likely, {"spotted": sure, "blurred": sure})
    assert not adapts(sure, {"spotted": sure, "blurred": unlikely})


def test_copies_have_one_kind_each_and_only_visible_ones_count(tmp_path):
    """On flat photographs, blurred and displaced pieces look like what was there."""
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        Image.fromarray(np.full((SIDE * 4, SIDE * 4, 3), 80 + 20 * index, np.uint8)).save(file)
    extractor = extractor_for(RANDOM, ["patchcore"], Settings(image_size=SIDE * 4))
    trial = draw_trial(extractor, files, "square", 0, 0, lambda *_: None)
    assert trial.bad.images == len(trial.sources) == len(trial.kinds) == len(trial.masks)
    assert not {"blurred", "warped"} & set(trial.kinds)
    assert {"spotted", "scratched"} <= set(trial.kinds) <= set(KINDS)
    assert all(mask.shape == (SIDE * 2, SIDE * 2) and mask.any() for mask in trial.masks)


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
