"""`python -m eval plan`: how many categories and seeds it takes to detect a difference, from measured noise."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spd_weights.errors import program

from ..metrics.compare import paired_differences
from ..metrics.means import Cells, Unit, distinct, group_rows, spread_over_seeds, unit_of
from ..metrics.metrics import TITLES, in_table_order
from ..metrics.power import MAX_UNITS, estimate_noise, seeds_needed, units_needed
from ..results import read_results
from .comparison import add_groups
from .tables import SHOWN, match_weights, weights_names
from .terminal import grid, print_title

_SEEDS = (1, 2, 5, 10)
_STANDARD_ERROR = 0.005  # of a mean over seeds: half a point
_POWER = 0.8
_HEADERS = ("SD\ncategories", "SD\nseeds", *(f"{n}\nseed{'s' * (n > 1)}" for n in _SEEDS), "seeds for\nSE 0.5")


def plan_command(argv: list[str]) -> None:
    """Run `python -m eval plan`: print one table per protocol, method and pair of weights.

    Raises:
        SpdError: The folder holds no results, or no such weights.
    """
    parser = argparse.ArgumentParser(
        prog=program("eval plan"),
        description="How many categories and seeds detect a difference between two weights with 80 % probability at "
        "95 % confidence. The noise is estimated from the results in DIR, over all its data sets.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of an evaluation, as a pilot study")
    parser.add_argument("--baseline", required=True, metavar="W", help="the weights to compare with")
    parser.add_argument("--difference", type=float, required=True, metavar="D", help="difference to detect, in points")
    add_groups(parser)
    given = parser.parse_args(argv)
    if given.difference == 0:
        parser.error("--difference 0: no number of categories detects it")
    rows = read_results(given.folder)["rows"]
    print_plan(rows, match_weights(rows, given.baseline), given.difference, given.group, Console())


def print_plan(
    rows: Sequence[dict[str, Any]], baseline: str, difference: float, groups: Sequence[str], console: Console
) -> None:
    """Print how many categories detect `difference` points, for several numbers of seeds."""
    names = weights_names(rows)

    def unit(category: tuple[str, str]) -> str:
        return unit_of(*category, groups)

    for protocol, method in distinct((protocol, method) for _, protocol, method in group_rows(rows)):
        cells = _cells(rows, protocol, method)
        for weights in distinct(weights for weights, _ in cells if weights != baseline):
            print_title(f"{protocol} · {method}: {names[weights]} − {names[baseline]}", console)
            table = grid("metric", *_HEADERS)
            for metric in in_table_order(metric for of, metric in cells if of == weights and metric in SHOWN):
                ours, theirs = cells[weights, metric], cells.get((baseline, metric), {})
                table.add_row(TITLES[metric], *_row(ours, theirs, unit, difference / 100))
            console.print(table)
    console.print(
        f"'N seeds': independent categories that detect {difference:g} points with {_POWER:.0%} probability when each "
        f"is measured with N seeds (> {MAX_UNITS}: more than that). 'SD': standard deviations in points. 'seeds for SE "
        "0.5': seeds that bring the standard error of either mean under half a point. Estimates from few categories "
        "are rough.",
        style="dim",
    )


def _row(ours: Cells, theirs: Cells, unit: Unit, difference: float) -> list[str]:
    noise = estimate_noise(paired_differences(ours, theirs), unit)
    if noise is None:
        return ["–"] * (3 + len(_SEEDS))
    needed = ["–"] * len(_SEEDS)
    for index, seeds in enumerate(_SEEDS):
        if noise.seeds is not None or seeds == noise.measured_seeds:
            needed[index] = str(units_needed(difference, noise.deviation(seeds), _POWER) or f"> {MAX_UNITS}")
    spreads = [spread for cells in (ours, theirs) if (spread := spread_over_seeds(cells)) is not None]
    seeds = str(seeds_needed(max(spreads), _STANDARD_ERROR)) if spreads else "–"
    deviation = "–" if noise.seeds is None else f"{100 * noise.seeds:.1f}"
    return [f"{100 * noise.categories:.1f}", deviation, *needed, seeds]


def _cells(
    rows: Sequence[dict[str, Any]], protocol: str, method: str
) -> dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]]:
    """Values by (weights, metric), then (data set, category), then seed."""
    cells: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = {}
    for row in rows:
        if (row["protocol"], row["method"]) == (protocol, method) and row["value"] is not None:
            of_weights = cells.setdefault((row["weights"], row["metric"]), {})
            of_weights.setdefault((row["dataset"], row["category"]), {})[row["seed"]] = row["value"]
    return cells
