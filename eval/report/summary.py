"""`python -m eval summary`: the main numbers of an evaluation as a Markdown table, as READMEs show them.

One row per weight and one column per (method, metric): the mean over categories of the mean over seeds, ± the standard
deviation over seeds. Then one row per weight with its paired differences to the first weight, their standard deviation
over seeds, and their intervals. Every category counts the same, whatever its data set; the categories of a --group
count as one. NAME also stands for NAME_seed0, NAME_seed1 and so on, which are repeated trainings. They are paired by
training seed; weights without one, such as the start of all trainings, are paired with each.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError, program

from ..metrics.compare import interval, paired_differences
from ..metrics.means import Unit, mean_over_units, spread_over_seeds, unit_means, unit_of
from ..metrics.metrics import TITLES
from ..results import read_results
from .comparison import add_groups
from .tables import Value, match_weights, weights_names

COLUMNS = {
    ("1cls", "padim", "image_auroc"): "PaDiM",
    ("1cls", "padim", "pixel_aupr"): "PaDiM",
    ("1cls", "patchcore", "image_auroc"): "PatchCore",
    ("1cls", "patchcore", "pixel_aupr"): "PatchCore",
    ("2cls_highshot", "classifier", "image_auroc"): "classifier",
    ("2cls_highshot", "unet", "pixel_aupr"): "U-Net",
}  # (protocol, method, metric) -> first word of the column's header

Category = tuple[str, str]  # data set, name
# category -> (training seed, or None if there is only one training; evaluation seed) -> value
Cells = dict[Category, dict[tuple[int | None, int], float]]


def summary_command(argv: list[str]) -> None:
    """Run `python -m eval summary`: print the table.

    Raises:
        SpdError: As `summary`, or the folder holds no results.
    """
    parser = argparse.ArgumentParser(
        prog=program("eval summary"),
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
    parser.add_argument(
        "--category", nargs="+", default=[], metavar="NAME", help="categories, as NAME or DATASET/NAME (all)"
    )
    add_groups(parser)
    given = parser.parse_args(argv)
    print(summary(read_results(given.folder)["rows"], given.weights, given.category, given.group))


def summary(
    rows: Sequence[dict[str, Any]],
    parts: Sequence[Sequence[str]],
    categories: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> str:
    """Render the table.

    Args:
        rows: The rows of results.json.
        parts: Names of weights: full, as tables shorten them, or without their training seed. The first of each
            part of the table is its baseline.
        categories: The categories to use, as NAME or DATASET/NAME; empty for all.
        groups: Patterns of categories that count as one unit; see `eval.metrics.means.unit_of`.

    Returns:
        Markdown; values and differences in percent.

    Raises:
        SpdError: Unknown weights or categories, or weights that were not measured on the same cells as their
            baseline.
    """
    if unknown := sorted(set(categories) - {name for row in rows for name in _names(row)}):
        raise SpdError(f"no categories {', '.join(unknown)} among the results")
    chosen = [row for row in rows if not categories or _names(row) & set(categories)]
    rows = [row for row in chosen if row["value"] is not None]
    columns = [column for column in COLUMNS if any(_column(row) == column for row in rows)]
    header = [f"{COLUMNS[column]} {TITLES[column[-1]]}" for column in columns]
    lines = [["", *header], ["---", *["---:"] * len(columns)]]

    def unit(category: Category) -> str:
        return unit_of(*category, groups)

    for labels in parts:
        trained = {label: _repetitions(rows, label) for label in labels}
        cells = {label: [_cells(rows, trained[label], column) for column in columns] for label in labels}
        for label in labels:
            name = f"`{label}`" + (f", {len(trained[label])} seeds" if len(trained[label]) > 1 else "")
            lines.append([name, *(str(_mean(of_column, unit)) for of_column in cells[label])])
        first, *others = labels
        for label in others:
            pairs = [_pairs(*both, (label, first)) for both in zip(cells[label], cells[first], strict=True)]
            lines.append([f"`{label}` − `{first}`", *(_difference(of_column, unit) for of_column in pairs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def differences(
    rows: Sequence[dict[str, Any]], weights: str, baseline: str, groups: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The numbers of one line of differences, JSON-ready: one entry per column that both weights have.

    Args:
        rows: The rows of results.json.
        weights: As in `summary`.
        baseline: As in `summary`.
        groups: As in `summary`.

    Returns:
        `weights`, `baseline`, `protocol`, `method`, `metric`; the means `value` and `baseline_value`, `difference`,
        `spread` over seeds (None with one seed) and the interval's `low` and `high` (None with too few units), all as
        fractions; `units`, the number of independent categories.

    Raises:
        SpdError: As `summary`.
    """
    rows = [row for row in rows if row["value"] is not None]

    def unit(category: Category) -> str:
        return unit_of(*category, groups)

    found = []
    for column in COLUMNS:
        ours, theirs = (_cells(rows, _repetitions(rows, label), column) for label in (weights, baseline))
        if pairs := _pairs(ours, theirs, (weights, baseline)):
            protocol, method, metric = column
            low, high = interval(unit_means(pairs, unit)) or (None, None)
            found.append({
                "weights": weights, "baseline": baseline, "protocol": protocol, "method": method, "metric": metric,
                "value": mean_over_units(ours, unit), "baseline_value": mean_over_units(theirs, unit),
                "difference": mean_over_units(pairs, unit),
                "spread": spread_over_seeds(pairs, lambda cells: mean_over_units(cells, unit)),
                "low": low, "high": high, "units": len(unit_means(pairs, unit)),
            })  # fmt: skip
    return found


def _names(row: dict[str, Any]) -> set[str]:
    """The names that --category may call a row's category by."""
    return {row["category"], f"{row['dataset']}/{row['category']}"}


def _column(row: dict[str, Any]) -> tuple[str, ...]:
    return row["protocol"], row["method"], row["metric"]


def _repetitions(rows: Sequence[dict[str, Any]], label: str) -> dict[str, int | None]:
    """The weights that a name stands for, each with its training seed (None if its name has none)."""
    names = weights_names(rows)
    seeds = {weights: re.fullmatch(rf"{re.escape(label)}_seed(\d+)", short) for weights, short in names.items()}
    found: dict[str, int | None] = {weights: int(match[1]) for weights, match in seeds.items() if match}
    return found or {match_weights(rows, label): None}


def _cells(rows: Sequence[dict[str, Any]], trained: dict[str, int | None], column: tuple[str, ...]) -> Cells:
    cells: Cells = {}
    for row in rows:
        if row["weights"] in trained and _column(row) == column:
            seeds = cells.setdefault((row["dataset"], row["category"]), {})
            seeds[trained[row["weights"]], row["seed"]] = row["value"]
    return cells


def _mean(cells: Cells, unit: Unit) -> Value:
    """Mean over independent categories, and its spread over seeds, in percent."""
    if not cells:
        return Value(None)
    spread = spread_over_seeds(cells, lambda of_seed: mean_over_units(of_seed, unit))
    return Value(100 * mean_over_units(cells, unit), None if spread is None else 100 * spread)


def _pairs(ours: Cells, theirs: Cells, names: tuple[str, str]) -> Cells:
    """Differences for all cells, which both weights must have; empty if one has none."""
    ours, theirs = _repeated(ours, theirs), _repeated(theirs, ours)
    if ours and theirs and {c: set(s) for c, s in ours.items()} != {c: set(s) for c, s in theirs.items()}:
        raise SpdError(f"{' and '.join(names)} were not measured on the same categories and seeds: evaluate them again")
    return paired_differences(ours, theirs)


def _repeated(cells: Cells, others: Cells) -> Cells:
    """Pair a single training with each training seed of the others."""
    trained = {training for seeds in others.values() for training, _ in seeds} - {None}
    if not trained or any(training is not None for seeds in cells.values() for training, _ in seeds):
        return cells
    return {
        category: {(training, seed): value for training in trained for (_, seed), value in seeds.items()}
        for category, seeds in cells.items()
    }


def _difference(pairs: Cells, unit: Unit) -> str:
    """The mean difference, ± its spread, and an interval if there are enough independent categories."""
    ends = interval(unit_means(pairs, unit))
    return f"{_mean(pairs, unit):+}" + (f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else "")
