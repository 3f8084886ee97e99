"""What a card opens with: its table, its bars, and where it says that there is no interval."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from spd_weights.errors import SpdError
from spd_weights.files import write_json
from spd_weights.release import cards, differences
from spd_weights.release.results import for_weights, read

SHA = "a" * 64


def entry(baseline: str, metric: str, difference: float, **changes: Any) -> dict[str, Any]:
    where = {"weights": "new", "baseline": baseline, "protocol": "1cls", "method": "patchcore", "metric": metric}
    measured = {"value": 0.795, "baseline_value": 0.795 - difference, "difference": difference, "spread": 0.012}
    return {**where, **measured, "low": None, "high": None, "units": 5, **changes}


ENTRIES = [
    entry("start", "image_auroc", 0.031, low=0.004, high=0.058, units=6),
    entry("rescaled", "image_auroc", 0.02, low=-0.01, high=0.05, units=6),
    entry("start", "pixel_aupr", -0.015),
    entry("rescaled", "pixel_aupr", 0.01, spread=None),
]


def results(entries: list[dict[str, Any]]) -> dict[str, Any]:
    row = {"weights_sha256": SHA, "weights": "new", "dataset": "set", "category": "a", "protocol": "1cls",
           "method": "patchcore", "metric": "image_auroc", "seed": 0, "value": 0.795}  # fmt: skip
    return {"rows": [row], "config": {}, "differences": entries}


def test_table_has_values_and_differences_with_what_is_known_of_their_uncertainty() -> None:
    lines = differences.table(ENTRIES).splitlines()
    assert lines[0] == "|  | `start` | `rescaled` | these weights | − `start` | − `rescaled` |"
    assert lines[2] == (
        "| PatchCore image AUROC | 76.4 | 77.5 | 79.5 | +3.1 ±1.2 (+0.4 to +5.8) | +2.0 ±1.2 (-1.0 to +5.0) |"
    )
    assert lines[3] == "| PatchCore pixel AP | 81.0 | 78.5 | 79.5 | -1.5 ±1.2 | +1.0 |"


def test_note_says_which_figures_have_no_interval() -> None:
    assert "95 % intervals" in differences.note(ENTRIES)
    assert differences.note(ENTRIES).endswith("independent categories have it: PatchCore pixel AP (5).")
    assert "95 %" not in differences.note(ENTRIES[2:])
    assert "No interval" not in differences.note(ENTRIES[:2])


def test_bars_start_at_zero_and_lines_span_the_intervals() -> None:
    picture = ElementTree.fromstring(differences.chart(ENTRIES))
    zero = next(float(e.get("x1")) for e in picture if e.tag.endswith("line"))
    bars = [e for e in picture if e.tag.endswith("rect") and e.get("height") == "14"]
    left = [float(bar.get("x")) for bar in bars]
    right = [float(bar.get("x")) + float(bar.get("width")) for bar in bars]
    points = (right[0] - zero) / 3.1
    assert left[:2] == [zero, zero]
    assert right[2] == pytest.approx(zero, abs=0.1)
    assert left[2] == pytest.approx(zero - 1.5 * points, abs=0.2)
    assert right[3] - zero == pytest.approx(points, abs=0.2)
    whiskers = [e.get("d").split("M")[1].split(" ")[0::1] for e in picture if e.tag.endswith("path")]
    assert len(whiskers) == 2
    low, high = (float(x.split("H")[-1]) for x in (whiskers[0][0], whiskers[0][1]))
    assert low == pytest.approx(zero + 0.4 * points, abs=0.2)
    assert high == pytest.approx(zero + 5.8 * points, abs=0.2)


def test_names_cannot_break_the_picture() -> None:
    picture = ElementTree.fromstring(differences.chart([entry("<script>&", "image_auroc", 0.0)]))
    assert "against <script>&" in [e.text for e in picture]


def test_card_opens_with_the_differences_of_its_own_weights(training: dict[str, Any]) -> None:
    others = [{**each, "weights": "other"} for each in ENTRIES]
    card = cards.render(training, results([*others, *ENTRIES[:1]]), weights_sha256=SHA)
    assert card.index("+3.1 ±1.2 (+0.4 to +5.8)") < card.index("chart.svg") < card.index("## How to load")
    assert "pixel AP" not in card[: card.index("## How to load")]
    assert "chart.svg" not in cards.render(training, results(ENTRIES), weights_sha256="b" * 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**ENTRIES[0], "difference": "much"}, "difference is 'much'"),
        ({"weights": "new"}, "needs baseline, baseline_value, difference, high, low,"),
        ({**ENTRIES[0], "value": None}, "needs value"),
        ({**ENTRIES[0], "low": None}, "one end of an interval"),
    ],
)
def test_differences_of_another_shape_are_refused(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", results([*ENTRIES, wrong]))
    with pytest.raises(SpdError, match=said):
        read(tmp_path / "results.json")


def test_differences_without_intervals_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", results(ENTRIES))
    assert read(tmp_path / "results.json")["differences"] == ENTRIES


def test_a_release_keeps_its_own_rows_and_those_of_its_baselines() -> None:
    study = results([*ENTRIES[:2], {**ENTRIES[0], "weights": "other"}])
    study["rows"] += [{**study["rows"][0], "weights": name, "weights_sha256": "b"} for name in ("start", "other")]
    kept = for_weights(study, SHA)
    assert [row["weights"] for row in kept["rows"]] == ["new", "start"]
    assert kept["differences"] == ENTRIES[:2]
    study["differences"] = []
    assert for_weights(study, SHA) == study
