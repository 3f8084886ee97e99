"""results/own_parts: the page is rendered from its rows, and their decisions are those of the rule."""

import json

from eval.inspection.adaptation.guard import Gain, adapts
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
        localisation = {kind: Gain(**found) for kind, found in row["guard"]["localisation"].items()}
        assert row["guard"]["adapt"] == adapts(Gain(**row["guard"]["detection"]), localisation)
