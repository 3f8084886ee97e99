"""results/own_parts: the page is rendered from its rows, and the guard kept its promise on them."""

import json

import numpy as np

from eval.inspection.adaptation.guard import MARGIN
from tests.bench.own_parts import render
from tests.eval.helpers import ROOT

FOLDER = ROOT / "results" / "own_parts"


def rows():
    return json.loads((FOLDER / "rows.json").read_text(encoding="utf-8"))["rows"]


def test_page_is_rendered_from_the_rows():
    content = json.loads((FOLDER / "rows.json").read_text(encoding="utf-8"))
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == render(content)


def test_decisions_follow_the_rule():
    for row in rows():
        guard = row["guard"]
        assert guard["adapt"] == (guard["adapted"] - guard["plain"] - 1.645 * guard["error"] > MARGIN)


def test_no_category_loses_more_than_a_point_of_image_auroc():
    changes = {
        (row["weights"], row["method"], row["category"], row["images"]): np.mean(row["adapted"]["image_auroc"])
        - np.mean(row["plain"]["image_auroc"])
        for row in rows()
        if row["guard"]["adapt"]
    }
    assert {key: change for key, change in changes.items() if change < -1} == {}
