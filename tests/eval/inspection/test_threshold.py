"""The threshold's false-alarm rate on normal images that no detector has seen."""

import numpy as np
import pytest
import torch

from eval.detectors.methods import Settings, build_detectors
from eval.inspection.features import FeatureStore
from eval.inspection.threshold import choose_threshold, fit_on, held_out


@pytest.mark.parametrize(
    ("n", "rate", "expected"),
    [(99, 0.01, 0.01), (19, 0.1, 0.1), (20, 0.1, 2 / 21), (9, 0.01, 0.1), (9, 1 - 1e-12, 0.9)],
)
def test_expected_rate_is_the_rate_of_new_scores(n, rate, expected):
    rng = np.random.default_rng(0)
    above = []
    for _ in range(4000):
        scores = rng.exponential(size=n + 1).astype(np.float32)
        chosen = choose_threshold(scores[:n], rate)
        assert chosen.rate == pytest.approx(expected)
        above.append(scores[n] > chosen.value)
    assert np.mean(above) == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (99, 0.1), (19, 0.1), (9, 0.01)])
def test_interval_holds_the_true_rate_in_95_of_100_cases_and_misses_evenly(n, rate):
    rng = np.random.default_rng(0)
    chosen = [choose_threshold(rng.random(n), rate) for _ in range(4000)]
    true = np.array([1 - each.value for each in chosen])  # of uniform scores
    for missed in (true < [each.low for each in chosen], true > [each.high for each in chosen]):
        assert missed.mean() == pytest.approx(0.025, abs=4 * np.sqrt(0.025 / 4000))


def images(rng, count):
    """Feature maps of two layers."""
    return [torch.from_numpy(rng.normal(size=(count, c, s, s)).astype(np.float32)) for c, s in ((6, 4), (10, 2))]


@pytest.mark.parametrize("method", ["padim", "patchcore", "gaussian", "knn"])
def test_unseen_normal_images_raise_as_many_alarms_as_stated(method):
    """With training scores instead of held-out ones, nearly all of them would."""
    rng = np.random.default_rng(1)
    settings = Settings(image_size=16, coreset_ratio=0.3)
    store = FeatureStore(60)
    store.append(images(rng, 60))

    def build(_indices):
        return build_detectors(method, settings, [0], 60)[0]

    detector = fit_on(build, store, range(60))
    chosen = choose_threshold(held_out(build, store).scores, 0.2)
    scores, _ = detector(images(rng, 2000))
    assert chosen.rate / 4 < float((scores > chosen.value).float().mean()) < 1.5 * chosen.rate
    train, _ = detector(next(store.batches(range(60))))
    if method == "padim":
        assert float((scores > train.max()).float().mean()) > 0.9


def test_neighbours_that_show_the_same_part_do_not_lower_the_threshold():
    """Six photographs of each part, one after the other; new parts raise as many alarms as stated."""
    rng = np.random.default_rng(2)
    settings = Settings(image_size=16, coreset_ratio=0.3)
    parts = images(rng, 20)
    bursts = [part.repeat_interleave(6, dim=0) for part in parts]
    store = FeatureStore(120)
    store.append(
        [burst + 0.1 * torch.randn(burst.shape, generator=torch.Generator().manual_seed(0)) for burst in bursts]
    )

    def build(_indices):
        return build_detectors("patchcore", settings, [0], 120)[0]

    chosen = choose_threshold(held_out(build, store).scores, 0.2)
    scores, _ = fit_on(build, store, range(120))(images(rng, 500))
    assert float((scores > chosen.value).float().mean()) < 2 * chosen.rate
