"""The README's table of results: its arithmetic, and that what is committed says what the README says."""

import shlex
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.metrics.compare import interval
from eval.report.summary import differences, summary
from spd_weights.errors import SpdError
from tests.eval.rows import row

ROOT = Path(__file__).parents[3]


def rows_for(values: dict[str, list[list[float]]]) -> list[dict[str, object]]:
    return [
        row(weights, f"c{i}", value, seed)
        for weights, categories in values.items()
        for i, seeds in enumerate(categories)
        for seed, value in enumerate(seeds)
    ]


def test_means_over_categories_of_means_over_seeds_and_paired_differences():
    values = {"a": [[0.5, 0.7], [0.2, 0.2], [0.9, 0.9]], "b": [[0.6, 0.9], [0.1, 0.4], [0.95, 0.9]]}
    lines = summary(rows_for(values), [["a", "b"]]).splitlines()
    assert lines[0] == "|  | PaDiM image AUROC |"
    assert lines[2] == "| `a` | 56.7 ±4.7 |"
    assert lines[3] == "| `b` | 64.2 ±13.0 |"
    assert lines[4] == "| `b` − `a` | +7.5 ±8.2 |"
    assert summary(rows_for(values), [["a", "b"]], ["c0"]).splitlines()[4] == "| `b` − `a` | +15.0 ±7.1 |"


def test_intervals_need_six_independent_categories():
    differences = [0.01, 0.03, 0.02, 0.05, 0.02, 0.04]
    rows = rows_for({"a": [[0.5]] * 6, "b": [[0.5 + value] for value in differences]})
    low, high = interval(differences)
    line = f"| `b` − `a` | +2.8 ({100 * low:+.1f} to {100 * high:+.1f}) |"
    assert summary(rows, [["a", "b"]]).splitlines()[4] == line
    assert summary(rows, [["a", "b"]], [f"c{i}" for i in range(5)]).splitlines()[4] == "| `b` − `a` | +2.6 |"
    grouped = summary(rows, [["a", "b"]], groups=["c[01]"]).splitlines()
    assert grouped[4] == "| `b` − `a` | +3.0 |"  # the first two count as one
    assert grouped[3] == "| `b` | 53.0 |"


def test_differences_are_the_numbers_of_the_table():
    steps = [0.01, 0.03, 0.02, 0.05, 0.02, 0.04]
    rows = rows_for({"a": [[0.5, 0.5]] * 6, "b": [[0.5 + value, 0.48 + value] for value in steps]})
    (found,) = differences(rows, "b", "a")
    low, high = interval([value - 0.01 for value in steps])
    expected = {"value": 0.5 + 0.17 / 6 - 0.01, "baseline_value": 0.5, "difference": 0.17 / 6 - 0.01,
                "spread": 0.02 / 2**0.5, "low": low, "high": high, "units": 6}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    (grouped,) = differences(rows, "b", "a", ["c[01]"])
    assert (grouped["low"], grouped["high"], grouped["units"]) == (None, None, 5)


def test_categories_of_the_same_name_in_two_data_sets_are_two():
    rows = [
        row(weights, "tile", value, dataset=dataset)
        for dataset, values in (("one", (0.9, 0.8)), ("two", (0.1, 0.4)))
        for weights, value in zip("ab", values, strict=True)
    ]
    assert summary(rows, [["a", "b"]]).splitlines()[2:] == ["| `a` | 50.0 |", "| `b` | 60.0 |", "| `b` − `a` | +10.0 |"]
    assert summary(rows, [["a"]], ["two/tile"]).splitlines()[2] == "| `a` | 10.0 |"
    assert summary(rows, [["a"]], ["tile"]).splitlines()[2] == "| `a` | 50.0 |"


def test_trainings_with_several_seeds_are_repetitions_paired_by_seed():
    values = {("a", 0): [0.5, 0.2], ("a", 3): [0.7, 0.2], ("b", 0): [0.6, 0.1], ("b", 3): [0.9, 0.4]}
    rows = [
        row(f"runs/{name}_seed{seed}/export", f"c{i}", value)
        for (name, seed), of_categories in values.items()
        for i, value in enumerate(of_categories)
    ] + [row("alone", "c0", 0.25), row("alone", "c1", 0.75)]
    lines = summary(rows, [["a", "b"], ["alone"]]).splitlines()
    assert lines[2] == "| `a`, 2 seeds | 40.0 ±7.1 |"
    assert lines[3] == "| `b`, 2 seeds | 50.0 ±21.2 |"
    assert lines[4] == "| `b` − `a` | +10.0 ±14.1 |"
    assert lines[5:] == ["| `alone` | 50.0 |"]
    with pytest.raises(SpdError, match="same categories and seeds"):
        summary([r for r in rows if "b_seed3" not in r["weights"]], [["a", "b"]])


def test_a_start_is_paired_with_each_training_seed():
    values = {"start": [0.5, 0.1], "new_seed0": [0.6, 0.1], "new_seed4": [0.8, 0.3]}
    rows = [row(name, f"c{i}", value) for name, of in values.items() for i, value in enumerate(of)]
    lines = summary(rows, [["start", "new"]]).splitlines()
    assert lines[2] == "| `start` | 30.0 |"
    assert lines[3] == "| `new`, 2 seeds | 45.0 ±14.1 |"
    assert lines[4] == "| `new` − `start` | +15.0 ±14.1 |"
    assert summary(rows, [["new", "start"]]).splitlines()[4] == "| `start` − `new` | -15.0 ±14.1 |"
    with pytest.raises(SpdError, match="same categories and seeds"):
        summary([r for r in rows if (r["weights"], r["category"]) != ("new_seed4", "c1")], [["start", "new"]])


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [row("a", "c0", 0.5), row("a", "c1", 0.5), row("b", "c0", 0.5), row("b", "c1", None)]
    with pytest.raises(SpdError, match="same categories"):
        summary(rows, [["a", "b"]])
    unmeasured = summary([*rows, row("a", "c0", 0.5, metric="pixel_aupr")], [["a"], ["b"]])
    assert unmeasured.splitlines()[3].endswith("| – |")
    with pytest.raises(SpdError, match="no categories nowhere"):
        summary(rows, [["a"]], ["nowhere"])
    assert main(["summary", str(tmp_path), "--weights", "a"]) == 2
    assert "results.json" in capsys.readouterr().err


def test_committed_tables_are_what_committed_results_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`<!-- python -m eval summary ARGUMENTS -->` makes the table below it; README shows no others."""
    monkeypatch.chdir(ROOT)
    tables = []
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*/README.md"))]:
        for block in page.read_text(encoding="utf-8").split("<!-- python -m eval summary ")[1:]:
            arguments, _, text = block.partition(" -->\n")
            assert main(["summary", *shlex.split(arguments)]) == 0
            tables.append(capsys.readouterr().out)
            assert text.lstrip("\n").startswith(tables[-1]), f"{page}: put in\n{tables[-1]}"
    shown = [f"|  | {text}" for text in (ROOT / "README.md").read_text(encoding="utf-8").split("|  | ")[1:]]
    assert shown
    for text in shown:
        assert any(text.startswith(table) for table in tables), f"README.md: no results give\n{text[:200]}"
