"""docs/pictures.py draws heat maps from an evaluation with --save-maps."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.train.helpers import ROOT


@pytest.mark.slow
def test_heat_maps_of_two_weights(tmp_path: Path):
    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr

    parts, out, picture = tmp_path / "parts", tmp_path / "eval", tmp_path / "heatmaps.webp"
    weights = ["mobilenetv2_100_spd", "random:mobilenetv2_100"]
    run(
        "-m",
        "synthetic.parts",
        "--to",
        str(parts),
        "--train",
        "4",
        "--test-normal",
        "2",
        "--anomalies",
        "4",
        "--size",
        "64",
    )
    images = ["--images", "biscuit/000", "biscuit/001", "--image-size", "64"]
    columns = ["--weights", *weights, "--labels", "adapted", "untrained"]
    run("docs/pictures.py", "--data", str(parts), *images, *columns, "--out", str(out), "--to", str(picture))
    width, height = Image.open(picture).size
    assert width > height > 200
