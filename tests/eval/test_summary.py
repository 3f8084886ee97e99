"""The README's table of results: its arithmetic, and that what is committed says what the README says."""

from pathlib import Path

import numpy as np
import pytest

from eval.compare import interval
from eval.results import read_results
from eval.summary import main, summary
from spd_weights.errors import SpdError

ROOT = Path(__file__).parents[2]


def row(weights: str, category: str, seed: int, value: float | None, metric: str = "image_auroc") -> dict[str, object]:
    where = {"dataset": "set", "category": category, "protocol": "1cls", "method": "padim"}
    return {"weights": weights, **where, "seed": seed, "metric": metric, "value": value}


def test_means_over_categories_of_means_over_seeds_and_paired_differences():
    values = {"a": [[0.5, 0.7], [0.2, 0.2], [0.9, 0.9]], "b": [[0.6, 0.9], [0.1, 0.4], [0.95, 0.9]]}
    rows = [
        row(weights, f"c{i}", seed, value)
        for weights, categories in values.items()
        for i, seeds in enumerate(categories)
        for seed, value in enumerate(seeds)
    ]
    lines = summary(rows, ["a", "b"]).splitlines()
    assert lines[0] == "|  | PaDiM image AUROC |"
    assert lines[2] == "| `a` | 56.7 |"
    assert lines[3] == "| `b` | 64.2 |"
    differences = (np.array(values["b"]) - np.array(values["a"])).tolist()
    low, high = interval(differences)
    assert lines[4] == f"| `b` − `a` | +7.5 ({100 * low:+.1f} to {100 * high:+.1f}) |"
    assert summary(rows, ["a", "b"], ["c0"]).splitlines()[4] == "| `b` − `a` | +15.0 |"


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [row("a", "c0", 0, 0.5), row("a", "c1", 0, 0.5), row("b", "c0", 0, 0.5), row("b", "c1", 0, None)]
    with pytest.raises(SpdError, match="same categories"):
        summary(rows, ["a", "b"])
    with pytest.raises(SpdError, match="no categories nowhere"):
        summary(rows, ["a"], ["nowhere"])
    assert main([str(tmp_path), "--weights", "a"]) == 2
    assert "results.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(ROOT.glob("results/*/README.md"))])
def test_committed_tables_are_what_committed_results_give(name: str):
    """`<!-- eval.summary ARGUMENTS -->` says what the table below it is made with."""
    page = (ROOT / "results" / name / "README.md").read_text(encoding="utf-8")
    rows = read_results(ROOT / "results" / name)["rows"]
    blocks = page.split("<!-- eval.summary ")[1:]
    assert blocks
    for block in blocks:
        arguments, _, text = block.partition(" -->\n")
        weights, _, categories = arguments.removeprefix("--weights ").partition(" --category ")
        table = summary(rows, weights.split(), categories.split())
        assert text.lstrip("\n").startswith(table + "\n"), f"results/{name}/README.md: render again\n{table}"
        if table in (ROOT / "README.md").read_text(encoding="utf-8"):
            break
    else:
        pytest.fail(f"README.md shows none of the tables of results/{name}")
