"""The archived images that committed results were measured on, whose generator is gone."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from eval.data.datasets import load_categories

RESULTS = Path(__file__).parents[2] / "results" / "adapt_confirm"
SHA256 = "7f674bd0b171a2dbb31d2c9932d9f494eb7ebc2d1d90e7dda380e7963b425b12"


def test_archive_holds_what_the_results_say(tmp_path: Path) -> None:
    archive = RESULTS / "rendered.tar"
    if not archive.exists():
        pytest.skip("the source distribution leaves the archive out")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    found = {
        (c.dataset, c.name): (
            len(c.train), sum(not s.anomalous for s in c.test), sum(s.anomalous for s in c.test)
        )
        for c in load_categories(tmp_path / "rendered", "1cls")
    }  # fmt: skip
    results = json.loads((RESULTS / "results.json").read_text())["rows"]
    assert found == {
        (row["dataset"], row["category"]): (row["n_train"], row["n_test_normal"], row["n_test_anomalous"])
        for row in results
        if row["dataset"] == "rendered"
    }
