"""results/visa: the committed pages say what the committed rows say."""

import json
import re
import shutil
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.metrics.compare import MIN_UNITS
from spd_weights.files import read_json
from tests.bench import parity

FOLDER = parity.FOLDER
COMMITTED = sorted(path.parent for path in FOLDER.rglob("results.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_tables_are_what_the_rows_give(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "results.json", tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    tables = (folder / "tables.md").read_text(encoding="utf-8")
    assert tables == (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "ms per image" in tables
    assert "defect regions" in tables or folder.name == "stage3"  # it has no pixel metrics but those of patchknn


def test_parity_page_is_what_its_rows_and_the_published_numbers_give() -> None:
    measured, reference = read_json(FOLDER / "parity.json"), read_json(parity.REFERENCE)
    page = (FOLDER / "parity.md").read_text(encoding="utf-8")
    assert page == parity.rendered(measured, reference)
    for row in reference["rows"]:
        if row["method"] in ("padim", "patchcore") and row["metric"] in parity.METRICS:
            for category in parity.OBJECTS if "objects" in row else ():
                assert f"{100 * row['objects'][category]:.1f}" in page


def test_two_objects_decide_nothing() -> None:
    assert len(parity.OBJECTS) < MIN_UNITS
    pages = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.md")]
    assert not any(re.search(r"[+-][\d.]+ to [+-][\d.]+", page) for page in pages)
    assert not any(mark in page for page in pages for mark in "▲▼")


def test_readme_names_the_machine_and_the_versions() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for folder in COMMITTED:
        for where in json.loads((folder / "results.json").read_text(encoding="utf-8"))["environments"].values():
            assert where["cpu"] in page
            for package in ("torch", "timm"):
                assert f"{package} {where['packages'][package]}" in page
