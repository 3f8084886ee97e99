"""--plan."""

import os
import re
from pathlib import Path

import pytest

from tests.train.helpers import arguments, write_photos
from train.__main__ import main
from train.plan import data_rows


def test_a_plan_reckons_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 24)
    assert main(arguments(photos, tmp_path / "run", "--plan", "--optim.epochs", "50")) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["steps"].startswith("150 of 8 images")
    assert said["passes"].startswith("4 ")  # two strong views, a positive, a negative
    assert not (tmp_path / "run").exists()
    per_core, on_all, _ = numbers(said["decoding"])
    assert per_core > 50  # images of 60 px
    assert on_all == pytest.approx(per_core * len(os.sched_getaffinity(0)), rel=0.05)
    processes, taken, cores, fed = numbers(said["data"])
    assert processes == 1
    assert cores == pytest.approx(taken / per_core, abs=0.05)
    assert fed == per_core


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


@pytest.mark.parametrize(
    ("wanted", "workers", "verdict"),
    [
        (900, 4, "feed 8,000: enough"),  # 8 processes want 7,200; 32 workers share 16 cores
        (900, 1, "feed 4,000: too little: set --data.workers 2"),
        (1100, 2, "feed 8,000: too little, with all cores as well: store the images as pixels"),
    ],
)
def test_a_plan_says_whether_the_cores_can_feed_the_processes(wanted: float, workers: int, verdict: str):
    rows = data_rows(decoded=500, wanted=wanted, workers=workers, processes=8, cores=16)
    assert rows["decoding"] == "500 images/s per core, 8,000 on the 16 cores of this machine"
    assert rows["data"].startswith(f"its 8 process(es) take {8 * wanted:,.0f} images/s, the work of ")
    assert verdict in rows["data"]
