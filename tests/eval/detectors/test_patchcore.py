"""PatchCore against an independent NumPy implementation, and the coreset against the plain algorithm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist

from eval.detectors.bank.coreset import greedy_coreset
from eval.detectors.patchcore import NEIGHBOURS, PROJECTION, Patchcore
from eval.detectors.patches import Patches
from tests.eval.detectors.reference import smoothed

SIDE = 32


def plain_greedy(points, count, start):
    """Every point is updated for every centre; float32 as in the product, ties to the lowest index."""
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    selected = [start]
    nearest[start] = -1
    while len(selected) < count:
        difference = torch.from_numpy(points - points[selected[-1]])
        nearest = np.minimum(nearest, difference.square().sum(1).numpy())
        selected.append(int(nearest.argmax()))
        nearest[selected[-1]] = -1
    return selected


@pytest.mark.parametrize(("points", "dims", "count"), [(9000, 8, 1500), (6000, 128, 300), (700, 3, 700), (1, 4, 1)])
@pytest.mark.parametrize("offset", [0, 1000])
def test_coreset_is_the_plain_algorithms(points, dims, count, offset):
    rng = np.random.default_rng(points)
    data = (rng.normal(size=(points, dims)) * rng.gamma(1, 1, (points, 1)) + offset).astype(np.float32)
    start = points // 2
    assert greedy_coreset(torch.from_numpy(data), count, start).tolist() == plain_greedy(data, count, start)


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 3), st.integers(1, 4))
@settings(deadline=None)
def test_coreset_of_points_that_coincide(seed, points, dims, values):
    data = np.random.default_rng(seed).integers(0, values, (points, dims)).astype(np.float32)
    count = (points + 1) // 2
    selected = greedy_coreset(torch.from_numpy(data), count, 0).tolist()
    assert selected == plain_greedy(data, count, 0)
    assert len(set(selected)) == count


def test_coreset_of_many_duplicates_stays_small_in_memory():
    data = torch.zeros(40_000, 64)
    data[::400] = torch.randn(100, 64)
    assert sorted(greedy_coreset(data, 101, 0).tolist())[2:] == list(range(400, 40_000, 400))


def features(rng, images):
    """Two layers of 8 and 4 patches a side; 6 + 10 channels."""
    shapes = [(images, 6, 8, 8), (images, 10, 4, 4)]
    return [torch.from_numpy(rng.normal(2, 1, shape).astype(np.float32)) for shape in shapes]


def reference_patches(layers):
    pooled = [uniform_filter(x.double().numpy(), (0, 0, 3, 3), mode="constant") for x in layers]
    side = pooled[0].shape[-1]
    # Bilinear with pixel centres aligned, by the weights of each output position.
    at = np.clip((np.arange(side) + 0.5) / (side / pooled[1].shape[-1]) - 0.5, 0, pooled[1].shape[-1] - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, pooled[1].shape[-1] - 1), at - low
    rows = pooled[1][:, :, low] * (1 - share)[:, None] + pooled[1][:, :, high] * share[:, None]
    grown = rows[..., low] * (1 - share) + rows[..., high] * share
    both = np.concatenate([pooled[0], grown], axis=1)
    return both.transpose(0, 2, 3, 1)


def fitted(train, ratio=0.2, seed=0, reweighted=False, batch=4, **options):
    detector = Patchcore(SIDE, seed, ratio, reweighted, Patches(len(train[0])), **options)
    for first in range(0, len(train[0]), batch):
        detector.update([layer[first : first + batch] for layer in train])
    detector.fit()
    return detector


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("ratio", [0.016, 0.2, 0.5])  # 10, 128 and 320 patches; 128 are a group of the bank
def test_equals_numpy(reweighted, ratio):
    rng = np.random.default_rng(1)
    train, test = features(rng, 10), features(rng, 3)
    generator = torch.Generator().manual_seed(7)
    projection = torch.randn(16, PROJECTION, generator=generator).numpy() / np.sqrt(PROJECTION)
    patches = reference_patches(train).reshape(-1, 16)
    start = int(torch.randint(len(patches), (), generator=generator))
    bank = patches[plain_greedy((patches @ projection).astype(np.float32), round(ratio * len(patches)), start)]

    detector = fitted(train, ratio, seed=7, reweighted=reweighted)
    np.testing.assert_allclose(detector.bank, bank, rtol=1e-5, atol=1e-5)
    scores, maps = detector(test)
    for image, score, found in zip(reference_patches(test), scores, maps, strict=True):
        distances = cdist(image.reshape(-1, 16), bank)
        grid = distances.min(axis=1)
        worst = grid.argmax()
        expected = grid[worst]
        if reweighted:
            nearest = distances[worst].argmin()
            near = np.argsort(cdist(bank[[nearest]], bank)[0])[:NEIGHBOURS]
            expected *= 1 - np.exp(grid[worst]) / np.exp(distances[worst, near]).sum()
        assert score.item() == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(found, smoothed(grid.reshape(1, 8, 8), SIDE)[0], rtol=1e-4)


def test_seed_draws_the_coreset_and_seeds_share_the_patches():
    rng = np.random.default_rng(3)
    train = features(rng, 6)
    shared = Patches(6)
    detectors = [Patchcore(SIDE, seed, 0.1, False, shared) for seed in (0, 1)]
    for first in range(0, 6, 2):
        batch = [layer[first : first + 2] for layer in train]
        for detector in detectors:
            detector.update(batch)
    assert len(shared) == 6 * 64
    for detector in detectors:
        detector.fit()
    banks = [d.bank for d in (*detectors, fitted(train, 0.1), fitted(train, 0.1, batch=6))]
    assert torch.equal(banks[0], banks[2])
    torch.testing.assert_close(banks[0], banks[3])
    assert not torch.equal(banks[0], banks[1])


def test_training_images_score_lowest_and_a_whole_bank_gives_zero():
    rng = np.random.default_rng(4)
    train = features(rng, 4)
    scores, _ = fitted(train, ratio=1.0)(train)
    assert scores.max() < 1e-3
    assert fitted(train, ratio=1.0)(features(rng, 4))[0].min() > 0.5


def test_mean_start_begins_at_the_patch_nearest_to_the_mean_of_the_projected_patches():
    train = features(np.random.default_rng(5), 6)
    patches = reference_patches(train).reshape(-1, 16)
    projection = torch.randn(16, PROJECTION, generator=torch.Generator().manual_seed(3)).numpy()
    points = patches @ projection
    nearest = patches[np.square(points - points.mean(axis=0)).sum(axis=1).argmin()]
    np.testing.assert_allclose(fitted(train, seed=3, start="mean").bank[0], nearest, rtol=1e-5)


def test_a_ratio_of_one_keeps_all_patches_whatever_the_seed():
    train = features(np.random.default_rng(6), 4)
    first, second = (fitted(train, ratio=1.0, seed=seed).bank for seed in (0, 1))
    assert torch.equal(first, second)
    np.testing.assert_allclose(first, reference_patches(train).reshape(-1, 16), rtol=1e-5, atol=1e-6)


def test_a_state_without_a_bank_is_reported():
    with pytest.raises(RuntimeError, match="Missing key"):
        Patchcore(SIDE, 0, 0.1, False, Patches(1)).load_state_dict({})
