"""Rendered scenes: the statistics of photographs, variety, and a function of their arguments."""

from itertools import pairwise

import numpy as np
import pytest

from synthetic.scenes import render

SIZE = 96


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [render(index, seed=0, size=SIZE) for index in range(24)]


def spectral_slope(grey: np.ndarray) -> float:
    """Slope of log amplitude over log frequency, averaged over directions; about -1 for photographs."""
    n = len(grey)
    window = np.hanning(n)[:, None] * np.hanning(n)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    radius = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)) * n
    rings = np.arange(3, n // 3)
    mean = [amplitude[np.abs(radius - ring) < 0.5].mean() for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(mean), 1)[0])


def test_scenes_have_the_statistics_of_photographs(scenes: list[np.ndarray]) -> None:
    greys = [scene.astype(float).mean(-1) for scene in scenes]
    for scene, grey in zip(scenes, greys, strict=True):
        assert scene.shape == (SIZE, SIZE, 3)
        assert scene.dtype == np.uint8
        assert 35 < grey.mean() < 225
        assert grey.std() > 10
        assert ((scene == 0) | (scene == 255)).mean() < 0.3
    assert -1.5 < np.mean([spectral_slope(grey) for grey in greys]) < -0.7
    assert np.mean([grey.std() for grey in greys]) > 28


def test_neighbouring_differences_have_heavy_tails(scenes: list[np.ndarray]) -> None:
    """Occlusion makes sharp edges between smooth areas: a kurtosis far above a Gaussian's 3."""
    steps = np.concatenate([np.diff(scene.astype(float).mean(-1)).ravel() / scene.std() for scene in scenes])
    assert ((steps - steps.mean()) ** 4).mean() / steps.var() ** 2 > 6


def test_every_scene_is_another_and_colours_vary(scenes: list[np.ndarray]) -> None:
    for one, other in pairwise(scenes):
        assert np.abs(one.astype(int) - other.astype(int)).mean() > 12
    means = np.array([scene.mean((0, 1)) for scene in scenes])
    assert means.std(0).min() > 15
    assert np.mean(np.ptp(means, axis=1)) > 15


def test_scene_is_a_function_of_its_arguments(scenes: list[np.ndarray]) -> None:
    for index in (9, 4, 0):
        np.testing.assert_array_equal(render(index, seed=0, size=SIZE), scenes[index])
        assert (render(index, seed=1, size=SIZE) != scenes[index]).mean() > 0.5


@pytest.mark.parametrize("size", [32, 65, 160])
def test_every_size_renders(size: int) -> None:
    for index in range(4):
        assert render(index, seed=3, size=size).shape == (size, size, 3)
