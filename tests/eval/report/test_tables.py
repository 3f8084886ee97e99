"""Rows arranged as tables: means, spreads and names."""

import pytest

from eval.report.tables import HEADERS, MILLISECONDS, short_names, tables
from tests.eval.rows import row


def test_values_are_means_over_seeds_and_common_categories():
    table = tables(
        [
            row("a", "x", 0.4, 0),
            row("a", "x", 0.6, 1),
            row("a", "y", 0.9, 0),
            row("b", "x", 0.8, 0),
            row("b", "y", None, 0) | {"reason": "why not"},
        ]
    )[0]
    assert str(table.values["x", "a", "image_auroc"]) == "50.0 ±14.1"
    assert str(table.values["y", "b", "image_auroc"]) == "–"
    assert table.mean("a", "image_auroc").mean == pytest.approx(50)  # y counts for neither, as b lacks it
    assert table.mean("b", "image_auroc").mean == pytest.approx(80)
    assert str(table.mean("a", "image_auroc")) == "50.0 ±14.1"  # over the seeds that all its categories have
    assert table.mean("a", "pixel_auroc").mean is None


def test_milliseconds_per_image_are_a_column_and_not_a_percentage():
    rows = [
        row("a", category, 0.5, seed, milliseconds_per_image=10 * (seed + 1) + (category == "y"))
        for category in ("x", "y")
        for seed in (0, 1)
    ]
    table = tables(rows)[0]
    assert table.columns == ("image_auroc", MILLISECONDS)
    assert HEADERS[MILLISECONDS] == "ms per image"
    assert str(table.value("y", "a", MILLISECONDS)) == "16.0 ±7.1"
    assert table.mean("a", MILLISECONDS).mean == pytest.approx(15.5)
    assert any(note.startswith("ms per image: backbone and method") for note in table.notes())
    untimed = tables([entry | {"milliseconds_per_image": None} for entry in rows])[0]
    assert untimed.columns == ("image_auroc",)
    assert not any("ms per image" in note for note in untimed.notes())


def test_names_stay_distinct():
    assert short_names(["runs/a/export", "runs/b"]) == {"runs/a/export": "a", "runs/b": "b"}
    assert short_names(["x/run", "y/run"]) == {"x/run": "x/run", "y/run": "y/run"}
    assert short_names(["hf-hub:o/n", "local-dir:/w/m"]) == {"hf-hub:o/n": "hf-hub:o/n", "local-dir:/w/m": "m"}


def test_letters_go_on_after_z():
    (table,) = tables([row(f"w{i}", "c", 0.5) for i in range(54)])
    letters = list(table.letters().values())
    assert (letters[0], letters[25], letters[26], letters[27], letters[53]) == ("A", "Z", "AA", "AB", "BB")
