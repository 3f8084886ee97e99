"""`python -m eval summary`: the main numbers of an evaluation as a Markdown table, as READMEs show them.

One row per weight and one column per (method, metric): the mean over categories of the mean over seeds. Then one row
per weight with its paired differences to the first weight, and their intervals. All categories count the same, whatever
their data set. NAME also stands for NAME_seed0, NAME_seed1 and so on: repeated trainings, whose seeds are repetitions.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError

from ..metrics.compare import interval
from ..metrics.means import mean_over_categories
from ..metrics.metrics import TITLES
from ..results import read_results
from .tables import match_weights, weights_names

COLUMNS = {
    ("1cls", "padim", "image_auroc"): "PaDiM",
    ("1cls", "padim", "pixel_aupr"): "PaDiM",
    ("1cls", "patchcore", "image_auroc"): "PatchCore",
    ("1cls", "patchcore", "pixel_aupr"): "PatchCore",
    ("2cls_highshot", "classifier", "image_auroc"): "classifier",
    ("2cls_highshot", "unet", "pixel_aupr"): "U-Net",
}  # (protocol, method, metric) -> first word of the column's header

Cells = dict[str, dict[tuple[int, int], float]]  # category -> (training seed, evaluation seed) -> value


def summary_command(argv: list[str]) -> None:
    """Run `python -m eval summary`: print the table.

    Raises:
        SpdError: As `summary`, or the folder holds no results.
    """
    parser = argparse.ArgumentParser(
        prog="python -m eval summary",
        description="Print the means of an evaluation, and the differences to the first weight, as a Markdown table.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation")
    parser.add_argument(
        "--weights",
        nargs="+",
        action="append",
        required=True,
        metavar="W",
        help="rows in this order; the first is the baseline. Repeat the option for further parts of the table",
    )
    parser.add_argument("--category", nargs="+", default=[], metavar="NAME", help="only these; default all")
    given = parser.parse_args(argv)
    print(summary(read_results(given.folder)["rows"], given.weights, given.category))


def summary(rows: Sequence[dict[str, Any]], groups: Sequence[Sequence[str]], categories: Sequence[str] = ()) -> str:
    """Render the table.

    Args:
        rows: The rows of results.json.
        groups: Names of weights: full, as tables shorten them, or without their training seed. The first of each
            group is its baseline.
        categories: The categories to use; empty for all.

    Returns:
        Markdown; values and differences in percent.

    Raises:
        SpdError: Unknown weights or categories, or weights that were not measured on the same cells as their
            baseline.
    """
    if unknown := sorted(set(categories) - {row["category"] for row in rows}):
        raise SpdError(f"no categories {', '.join(unknown)} among the results")
    rows = [row for row in rows if row["value"] is not None and (not categories or row["category"] in categories)]
    columns = [column for column in COLUMNS if any(_column(row) == column for row in rows)]
    header = [f"{COLUMNS[column]} {TITLES[column[-1]]}" for column in columns]
    lines = [["", *header], ["---", *["---:"] * len(columns)]]
    for labels in groups:
        trained = {label: _repetitions(rows, label) for label in labels}
        cells = {label: [_cells(rows, trained[label], column) for column in columns] for label in labels}
        for label in labels:
            name = f"`{label}`" + (f", {len(trained[label])} seeds" if len(trained[label]) > 1 else "")
            lines.append([name, *map(_mean, cells[label])])
        first, *others = labels
        for label in others:
            differences = map(_difference, cells[label], cells[first], [(label, first)] * len(columns))
            lines.append([f"`{label}` − `{first}`", *differences])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(row: dict[str, Any]) -> tuple[str, ...]:
    return row["protocol"], row["method"], row["metric"]


def _repetitions(rows: Sequence[dict[str, Any]], label: str) -> dict[str, int]:
    """The weights that a name stands for, each with its training seed (0 if its name has none)."""
    names = weights_names(rows)
    seeds = {weights: re.fullmatch(rf"{re.escape(label)}_seed(\d+)", short) for weights, short in names.items()}
    found = {weights: int(match[1]) for weights, match in seeds.items() if match}
    return found or {match_weights(rows, label): 0}


def _cells(rows: Sequence[dict[str, Any]], trained: dict[str, int], column: tuple[str, ...]) -> Cells:
    cells: Cells = {}
    for row in rows:
        if row["weights"] in trained and _column(row) == column:
            cells.setdefault(row["category"], {})[trained[row["weights"]], row["seed"]] = row["value"]
    return cells


def _mean(cells: Cells) -> str:
    return f"{100 * mean_over_categories(cells):.1f}" if cells else "–"


def _difference(ours: Cells, theirs: Cells, names: tuple[str, str]) -> str:
    if not ours or not theirs:
        return "–"
    if {c: set(s) for c, s in ours.items()} != {c: set(s) for c, s in theirs.items()}:
        raise SpdError(f"{' and '.join(names)} were not measured on the same categories and seeds: evaluate them again")
    pairs = {c: {seed: ours[c][seed] - theirs[c][seed] for seed in theirs[c]} for c in sorted(theirs)}
    mean = f"{100 * mean_over_categories(pairs):+.1f}"
    if len(pairs) < 2:
        return mean
    low, high = interval([list(seeds.values()) for seeds in pairs.values()])
    return f"{mean} ({100 * low:+.1f} to {100 * high:+.1f})"
