"""The page of a run's curves: what it shows is what metrics.jsonl holds, and it fits and asks for nothing."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eval.report.browser import CHROMIUM, Browser
from train.__main__ import main
from train.config import DataConfig
from train.recipes import SimSiam, to_json


def write_run(folder: Path, steps: int) -> Path:
    folder.mkdir(parents=True)
    config = SimSiam(data=DataConfig(train="photos"), out=folder)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            loss = None if step == 3 else -1 + math.exp(-step / 300)  # null: it was no number
            file.write(json.dumps({"step": step, "epoch": step / 100, "loss": loss, "a_new_one": step**2}) + "\n")
            if step % 100 == 0:
                file.write(json.dumps({"step": step, "val_knn_top1": step / steps}) + "\n")
        file.write('{"step": 9')  # being written just now
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "<mine>", 1000)
    assert main(["report", str(folder)]) == 0
    return folder / "report.html"


def test_curves_follow_the_numbers(page: Path):
    text = page.read_text()
    figures = {re.search("<figcaption>(.*?)<", f)[1]: f for f in text.split("<figure>")[1:]}
    assert list(figures) == ["Loss", "Accuracy on held-out images", "a_new_one"]
    points = [tuple(map(float, p.split(","))) for p in re.search('points="(.*?)"', figures["Loss"])[1].split()]
    assert len(points) <= 400
    x, y = zip(*points, strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y)  # a loss that falls goes down the page
    assert f"loss {-1 + math.exp(-1000 / 300):.4g}" in figures["Loss"]
    assert "&lt;mine&gt;" in text
    assert "<mine>" not in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_what_is_no_run_or_has_logged_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path)]) == 2
    assert "config.json cannot be read" in capsys.readouterr().err
    run = write_run(tmp_path / "run", 1)
    (run / "metrics.jsonl").write_text("")
    assert main(["report", str(run)]) == 2
    assert "has no lines yet" in capsys.readouterr().err


def test_a_curve_of_one_point_and_one_that_does_not_move(tmp_path: Path):
    assert main(["report", str(write_run(tmp_path / "run", 1))]) == 0
    assert "<circle" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_the_page_fits_and_asks_for_nothing(browser: Browser, page: Path, width: int, dark: bool):
    browser.open(page, width, 800, dark=dark)
    assert (browser.requests, browser.errors) == ([], [])
    assert browser.value("document.documentElement.scrollWidth") <= width
    browser.value("document.querySelector('details').open = true")
    assert browser.value("document.documentElement.scrollWidth") <= width
    ground, text = (browser.value(f"getComputedStyle(document.body).{p}") for p in ("backgroundColor", "color"))
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ground, text)]
    assert (brightness[0] < brightness[1]) == dark
