"""--plan."""

import re
from pathlib import Path

import pytest

from tests.train.helpers import arguments, write_photos
from train.__main__ import main


def test_a_plan_reckons_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 24)
    assert main(arguments(photos, tmp_path / "run", "--plan", "--optim.epochs", "50")) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["steps"].startswith("150 of 8 images")
    assert said["passes"].startswith("4 ")  # two strong views, a positive, a negative
    assert not (tmp_path / "run").exists()
    figures = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", said["data"])]
    decoded, needed, cores = figures[:3]
    assert decoded > 50  # images of 60 px
    assert needed > 0
    assert cores == pytest.approx(needed / decoded, abs=0.05)
