"""`python -m eval.summary`: the few numbers of an evaluation that a README shows, as a Markdown table.

One row a weight, one column a (method, metric), each a mean over categories of the mean over seeds; below, the
paired differences to the first weight with their intervals. All categories count alike, whatever their data set.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare import interval
from eval.results import read_results
from eval.tables import TITLES, match_weights
from spd_weights.errors import SpdError

METRICS = ("image_auroc", "pixel_aupr")
_METHODS = {"padim": "PaDiM", "patchcore": "PatchCore"}

Cells = dict[tuple[str, str, str], dict[str, dict[int, float]]]  # (weights, method, metric): category: seed: value


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.summary",
        description="Print a Markdown table of an evaluation's means, and of the differences to the first weight.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    parser.add_argument(
        "--weights", nargs="+", required=True, metavar="W", help="in this order; the first is compared with"
    )
    parser.add_argument("--category", nargs="+", default=[], metavar="NAME", help="only these; default all")
    given = parser.parse_args(argv)
    try:
        print(summary(read_results(given.folder)["rows"], given.weights, given.category))
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def summary(rows: Sequence[dict[str, Any]], weights: Sequence[str], categories: Sequence[str] = ()) -> str:
    """Render the table.

    Args:
        rows: Of results.json.
        weights: Names among the rows, in full or as tables shorten them; the first is the baseline.
        categories: Only these; none for all.

    Returns:
        Markdown, values and differences in percent.

    Raises:
        SpdError: There are no such weights or categories, or a weight lacks a cell that the baseline has.
    """
    names = [match_weights(list(rows), name) for name in weights]
    if unknown := sorted(set(categories) - {row["category"] for row in rows}):
        raise SpdError(f"no categories {', '.join(unknown)} among the results")
    cells = _cells(rows, categories)
    columns = [(method, metric) for method in _METHODS for metric in METRICS if (names[0], method, metric) in cells]
    header = [f"{_METHODS[method]} {TITLES[metric]}" for method, metric in columns]
    lines = [["", *header], ["---", *["---:"] * len(columns)]]
    for name, label in zip(names, weights, strict=True):
        lines.append([f"`{label}`", *(_mean(cells, name, column) for column in columns)])
    for name, label in zip(names[1:], weights[1:], strict=True):
        lines.append([f"`{label}` − `{weights[0]}`", *(_difference(cells, name, names[0], c) for c in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(rows: Sequence[dict[str, Any]], categories: Sequence[str]) -> Cells:
    cells: Cells = {}
    for row in rows:
        if row["value"] is not None and (not categories or row["category"] in categories):
            of_weights = cells.setdefault((row["weights"], row["method"], row["metric"]), {})
            of_weights.setdefault(row["category"], {})[row["seed"]] = row["value"]
    return cells


def _mean(cells: Cells, weights: str, column: tuple[str, str]) -> str:
    found = cells.get((weights, *column), {})
    return f"{100 * np.mean([np.mean(list(seeds.values())) for seeds in found.values()]):.1f}" if found else "–"


def _difference(cells: Cells, weights: str, baseline: str, column: tuple[str, str]) -> str:
    ours, theirs = cells.get((weights, *column), {}), cells[(baseline, *column)]
    if {c: set(s) for c, s in ours.items()} != {c: set(s) for c, s in theirs.items()}:
        raise SpdError(
            f"{weights} and {baseline} were not measured on the same categories and seeds: evaluate them again"
        )
    pairs = [[ours[c][seed] - theirs[c][seed] for seed in theirs[c]] for c in sorted(theirs)]
    mean = f"{100 * np.mean([np.mean(p) for p in pairs]):+.1f}"
    if len(pairs) < 2:
        return mean
    low, high = interval(pairs)
    return f"{mean} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
