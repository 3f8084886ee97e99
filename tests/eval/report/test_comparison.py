"""`python -m eval compare`: what it prints, and compare.json."""

import io

from rich.console import Console

from eval.__main__ import main
from eval.metrics.compare import compare
from eval.report.terminal import print_comparison
from spd_weights.files import read_json
from tests.eval.rows import even, rows_of, write_results


def test_folder_is_compared_and_the_file_says_the_same_each_time(tmp_path, capsys):
    rows = [r | {"weights": f"runs/{r['weights']}/export"} for r in rows_of(even(6, [0.02, 0.04]))]
    write_results(tmp_path, rows)
    assert main(["compare", str(tmp_path), "--baseline", "base"]) == 0
    first = (tmp_path / "compare.json").read_bytes()
    content = read_json(tmp_path / "compare.json")
    assert content["baseline"] == "runs/base/export"
    assert content["comparisons"][0]["verdict"] == "better"
    assert main(["compare", str(tmp_path), "--baseline", "runs/base/export"]) == 0
    assert (tmp_path / "compare.json").read_bytes() == first
    assert "Difference to base" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert main(["compare", str(tmp_path), "--baseline", "other"]) == 2
    error = capsys.readouterr().err
    assert "no weights 'other'" in error
    assert "runs/base/export, runs/new/export" in error


def test_page_keeps_the_baseline_that_was_chosen(tmp_path):
    write_results(tmp_path, rows_of(even(6, [0.02, 0.04])))
    assert main(["compare", str(tmp_path), "--baseline", "new"]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert "Difference to new" in (tmp_path / "report.html").read_text()


def test_terminal_shows_points_interval_and_n():
    rows = rows_of({f"c{i}": [0.02, 0.021] for i in range(6)})
    console = Console(width=100, record=True, file=io.StringIO())
    print_comparison(compare(rows, "base"), console)
    printed = console.export_text()
    for text in ("new − base", "+2.1 ±0.1", "+2.1 to +2.1", "better", "6 (12 pairs)", "other training runs"):
        assert text in printed


def test_differences_within_the_spread_are_named(tmp_path, capsys):
    write_results(tmp_path, rows_of({f"c{i}": [0.03, -0.02] for i in range(6)}))
    assert main(["compare", str(tmp_path), "--baseline", "base"]) == 0
    assert "within the spread over seeds: image AUROC" in capsys.readouterr().out


def test_groups_are_kept_for_the_page(tmp_path, capsys):
    write_results(tmp_path, rows_of(even(7, [0.02, 0.04])))
    assert main(["compare", str(tmp_path), "--baseline", "base", "--group", "set/c[0-2]"]) == 0
    printed = capsys.readouterr().out
    assert "7 (5 independent)" in printed
    assert "5 independent categories, and an interval needs at least 6" in printed
    assert main(["report", str(tmp_path)]) == 0
    assert "7 (5 independent)" in (tmp_path / "report.html").read_text()


def test_plan_says_how_many_categories_and_seeds(tmp_path, capsys):
    write_results(tmp_path, rows_of({f"c{i}": [0.02 * i, 0.02 * i + 0.012] for i in range(5)}))
    assert main(["plan", str(tmp_path), "--baseline", "base", "--difference", "5"]) == 0
    printed = capsys.readouterr().out
    (line,) = (line.split() for line in printed.splitlines() if "image AUROC" in line)
    assert line[2:4] == ["3.1", "0.8"]
    assert [int(value) for value in line[4:]] == [6, 6, 6, 6, 3]
    assert "detect 5 points" in printed
