"""The rendered scenes: the same bytes again, the statistics of photographs, complete or absent."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spd_weights.errors import SpdError
from synthetic.scenes.__main__ import main
from synthetic.scenes.canvas import fractal, sample
from synthetic.scenes.dataset import Arguments, write
from synthetic.scenes.render import render

SIZE = 96
KINDS = 17  # the kinds of scene come round after this many


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [render(index, seed=0, size=SIZE) for index in range(3 * KINDS)]


def _grey(scene: np.ndarray) -> np.ndarray:
    return scene.astype(np.float64) @ (0.299, 0.587, 0.114)


def _slope(grey: np.ndarray) -> float:
    """Slope of log amplitude over log frequency, rotationally averaged; about -1 for photographs."""
    n = len(grey)
    window = np.hanning(n)[:, None] * np.hanning(n)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    radius = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)) * n
    rings = np.arange(3, n // 3)
    mean = [amplitude[np.abs(radius - ring) < 0.5].mean() for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(mean), 1)[0])


def _entropy(grey: np.ndarray) -> float:
    share = np.bincount(grey.astype(int).ravel(), minlength=256) / grey.size
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())


def test_same_scene_in_any_order(scenes: list[np.ndarray]) -> None:
    for index in (9, 4, 0, 13):
        np.testing.assert_array_equal(render(index, seed=0, size=SIZE), scenes[index])
    assert all((render(index, seed=1, size=SIZE) != scenes[index]).mean() > 0.5 for index in range(KINDS))


def test_every_scene_is_another(scenes: list[np.ndarray]) -> None:
    for index in range(2 * KINDS):  # also among scenes of one kind
        assert np.abs(scenes[index].astype(int) - scenes[index + KINDS].astype(int)).mean() > 8


def test_scenes_have_the_statistics_of_photographs(scenes: list[np.ndarray]) -> None:
    greys = [_grey(scene) for scene in scenes]
    for scene, grey in zip(scenes, greys, strict=True):
        assert scene.shape == (SIZE, SIZE, 3)
        assert scene.dtype == np.uint8
        assert 50 < grey.mean() < 200
        assert grey.std() > 10
        assert _entropy(grey) > 5
        assert ((scene == 0) | (scene == 255)).mean() < 0.25  # hardly clipped
    slopes = [_slope(grey) for grey in greys]
    assert -1.7 < np.mean(slopes) < -0.7
    assert np.mean([grey.std() for grey in greys]) > 28
    assert np.mean([_entropy(grey) for grey in greys]) > 6.5


def test_scenes_have_colour_and_depth_of_variety(scenes: list[np.ndarray]) -> None:
    means = np.array([scene.mean((0, 1)) for scene in scenes])
    assert means.std(0).min() > 12
    assert np.mean([np.ptp(scene.mean((0, 1))) for scene in scenes]) > 15


@pytest.mark.parametrize("size", [32, 65, 160])
def test_every_kind_renders_at_every_size(size: int) -> None:
    for index in range(KINDS):
        assert render(index, seed=3, size=size).shape == (size, size, 3)


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_noise_falls_off_as_asked(slope: float) -> None:
    field = np.mean([np.abs(np.fft.rfft2(fractal(np.random.default_rng(i), 128, slope))) for i in range(20)], 0)
    line = np.arange(2, 60)
    assert np.polyfit(np.log(line), np.log(field[0, line]), 1)[0] == pytest.approx(-slope, abs=0.1)


def test_sampling_is_bilinear_and_periodic() -> None:
    tile = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    grid = np.arange(8, dtype=np.float32) / 8
    for shift in (0.0, 1.0, -3.0):
        np.testing.assert_allclose(sample(tile, grid[None] + shift, grid[:, None] - shift), tile, atol=1e-5)
    between = sample(tile, np.float32([[1.5 / 8]]), np.float32([[7.25 / 8]]))
    expected = 0.75 * (tile[7, 1] + tile[7, 2]) / 2 + 0.25 * (tile[0, 1] + tile[0, 2]) / 2
    np.testing.assert_allclose(between, [[expected]], rtol=1e-5)


def test_folder_holds_flat_jpegs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes"
    assert main(["--to", str(folder), "--count", "18", "--size", str(SIZE)]) == 0
    assert capsys.readouterr() == (f"{folder}: 18 scenes\n", "")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [*(f"{index:06d}.jpg" for index in range(18)), "manifest.json"]
    stored = np.asarray(Image.open(folder / "000000.jpg")).astype(int)
    assert np.abs(stored - render(0, seed=0, size=SIZE)).mean() < 4  # what JPEG costs


def test_another_process_renders_the_same(scenes: list[np.ndarray]) -> None:
    code = (
        "import sys; from synthetic.scenes.render import render\n"
        f"for i in (16, 3, 0): sys.stdout.buffer.write(render(i, seed=0, size={SIZE}).tobytes())\n"
        "assert 'torch' not in sys.modules, 'rendering needs no torch'"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == b"".join(scenes[i].tobytes() for i in (16, 3, 0))


def test_second_run_does_nothing_and_other_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = Arguments(count=2, size=32)
    assert write(tmp_path / "scenes", arguments)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "scenes").iterdir()}
    begun = time.perf_counter()
    assert not write(tmp_path / "scenes", arguments)
    assert time.perf_counter() - begun < 0.2
    assert main(["--to", str(tmp_path / "scenes"), "--count", "3", "--size", "32"]) == 2
    assert "holds something other than these scenes" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "scenes").iterdir()} == before


def test_foreign_folder_is_refused_and_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(SpdError, match="something other"):
        write(tmp_path / "mine", Arguments(count=1, size=32))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "scenes", Arguments(count=3, size=32), interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("option", ["--count", "--size", "--seed"])
def test_bad_arguments_get_a_message(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--to", str(tmp_path / "scenes"), option, "-1"]) == 2
    assert f"error: {option} -1: must be at least" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
