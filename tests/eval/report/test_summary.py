"""The README's table of results: its arithmetic, and that what is committed says what the README says."""

from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.metrics.compare import interval
from eval.report.summary import summary
from spd_weights.errors import SpdError
from tests.eval.rows import row

ROOT = Path(__file__).parents[3]


def test_means_over_categories_of_means_over_seeds_and_paired_differences():
    values = {"a": [[0.5, 0.7], [0.2, 0.2], [0.9, 0.9]], "b": [[0.6, 0.9], [0.1, 0.4], [0.95, 0.9]]}
    rows = [
        row(weights, f"c{i}", value, seed)
        for weights, categories in values.items()
        for i, seeds in enumerate(categories)
        for seed, value in enumerate(seeds)
    ]
    lines = summary(rows, [["a", "b"]]).splitlines()
    assert lines[0] == "|  | PaDiM image AUROC |"
    assert lines[2] == "| `a` | 56.7 |"
    assert lines[3] == "| `b` | 64.2 |"
    differences = (np.array(values["b"]) - np.array(values["a"])).tolist()
    low, high = interval(differences)
    assert lines[4] == f"| `b` − `a` | +7.5 ({100 * low:+.1f} to {100 * high:+.1f}) |"
    assert summary(rows, [["a", "b"]], ["c0"]).splitlines()[4] == "| `b` − `a` | +15.0 |"


def test_trainings_with_several_seeds_are_repetitions_paired_by_seed():
    values = {("a", 0): [0.5, 0.2], ("a", 3): [0.7, 0.2], ("b", 0): [0.6, 0.1], ("b", 3): [0.9, 0.4]}
    rows = [
        row(f"runs/{name}_seed{seed}/export", f"c{i}", value)
        for (name, seed), of_categories in values.items()
        for i, value in enumerate(of_categories)
    ] + [row("alone", "c0", 0.25), row("alone", "c1", 0.75)]
    lines = summary(rows, [["a", "b"], ["alone"]]).splitlines()
    assert lines[2] == "| `a`, 2 seeds | 40.0 |"
    assert lines[3] == "| `b`, 2 seeds | 50.0 |"
    low, high = interval([[0.1, 0.2], [-0.1, 0.2]])
    assert lines[4] == f"| `b` − `a` | +10.0 ({100 * low:+.1f} to {100 * high:+.1f}) |"
    assert lines[5:] == ["| `alone` | 50.0 |"]
    with pytest.raises(SpdError, match="same categories and seeds"):
        summary([r for r in rows if "b_seed3" not in r["weights"]], [["a", "b"]])


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
    for page in sorted(ROOT.glob("results/*/README.md")):
        for block in page.read_text(encoding="utf-8").split("<!-- python -m eval summary ")[1:]:
            arguments, _, text = block.partition(" -->\n")
            assert main(["summary", *arguments.split()]) == 0
            tables.append(capsys.readouterr().out)
            assert text.lstrip("\n").startswith(tables[-1]), f"{page}: put in\n{tables[-1]}"
    shown = [f"|  | {text}" for text in (ROOT / "README.md").read_text(encoding="utf-8").split("|  | ")[1:]]
    assert shown
    for text in shown:
        assert any(text.startswith(table) for table in tables), f"README.md: no results give\n{text[:200]}"
