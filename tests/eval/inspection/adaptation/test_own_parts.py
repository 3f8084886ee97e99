"""results/own_parts: the committed decisions are those of the rule."""

import json

from eval.inspection.adaptation.guard import Gain, adapts
from tests.eval.helpers import ROOT

FOLDER = ROOT / "results" / "own_parts"


def rows():
    return json.loads((FOLDER / "rows.json").read_text(encoding="utf-8"))["rows"]


def test_decisions_follow_the_rule():
    for row in rows():
        localisation = {kind: Gain(**found) for kind, found in row["guard"]["localisation"].items()}
        assert row["guard"]["adapt"] == adapts(Gain(**row["guard"]["detection"]), localisation)
