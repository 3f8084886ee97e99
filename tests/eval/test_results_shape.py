"""results.json files that other hands have written, or damaged."""

import copy
import json
from pathlib import Path

import pytest

from eval.results import read_results
from spd_weights.errors import SpdError

COMMITTED = sorted((Path(__file__).parents[2] / "results").rglob("results.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_are_read(path: Path) -> None:
    assert read_results(path.parent)["rows"]


def broken(results: dict, *, drop: str = "", row: dict | None = None, environment: dict | None = None) -> dict:
    results = copy.deepcopy(results)
    results.pop(drop, None)
    if row is not None:
        results["rows"][1] |= row
    if environment is not None:
        results["environment"] = environment
    return results


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"drop": "rows"}, "rows is missing"),
        ({"drop": "environment"}, "environment is missing"),
        ({"environment": {}}, "environment does not name the cpu"),
        ({"row": {"weights": 1}}, "row 1 has no weights"),
        ({"row": {"dataset": None}}, "row 1 has no dataset"),
        ({"row": {"value": "high"}}, "row 1 has no seed or no value"),
    ],
)
def test_damaged_results_are_refused_with_what_is_wrong(tmp_path: Path, damage: dict, message: str) -> None:
    results = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    results["rows"] = results["rows"][:3]
    (tmp_path / "results.json").write_text(json.dumps(broken(results, **damage)))
    with pytest.raises(SpdError, match=message):
        read_results(tmp_path)
