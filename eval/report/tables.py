"""Rows of results.json arranged for reading: one table a (data set, protocol, method)."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from spd_weights.errors import SpdError

# In the order in which they are shown.
TITLES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AP",
    "image_aupr_trapezoid": "image AU-PR (trapezoid)",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AP",
    "pixel_aupr_trapezoid": "pixel AU-PR (trapezoid)",
    "pixel_f1max": "pixel F1max",
    "pixel_aupro": "pixel AUPRO",
    "pixel_aupimo": "pixel AUPIMO",
    "anomalous_only_pixel_auroc": "pixel AUROC (anomalous images)",
    "anomalous_only_pixel_aupr": "pixel AP (anomalous images)",
    "pixel_auroc_spotdiff": "pixel AUROC (spot-diff)",
    "pixel_aupr_spotdiff": "pixel AU-PR (spot-diff)",
    "pixel_f1max_spotdiff": "pixel F1max (spot-diff)",
}
# What a results table shows; results.json and the comparison hold all.
SHOWN = ("image_auroc", "image_aupr", "image_f1max", "pixel_auroc", "pixel_aupr", "pixel_aupro",
         "pixel_auroc_spotdiff", "pixel_aupr_spotdiff")  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A metric of a category (or the mean of categories) in percent, over the seeds."""

    mean: float | None
    spread: float | None = None  # standard deviation over seeds, where there are several
    reason: str | None = None

    def __str__(self) -> str:
        """One decimal, and the spread where there is one; a dash for what is undefined."""
        if self.mean is None:
            return "–"
        return f"{self.mean:.1f}" + (f" ±{self.spread:.1f}" if self.spread is not None else "")


@dataclass(frozen=True)
class Table:
    """Values of one data set, protocol and method."""

    dataset: str
    protocol: str
    method: str
    categories: tuple[str, ...]
    weights: tuple[str, ...]
    metrics: tuple[str, ...]
    values: dict[tuple[str, str, str], Value]  # (category, weights, metric)
    seeds: dict[tuple[str, str, str], dict[int, float]]  # the same, in percent, seed by seed

    @property
    def key(self) -> tuple[str, str, str]:
        """Data set, protocol and method."""
        return self.dataset, self.protocol, self.method

    @property
    def title(self) -> str:
        """What stands above it."""
        return " · ".join(self.key)

    def mean(self, weights: str, metric: str) -> Value:
        """Mean over the categories in which every weight has the metric, so that columns compare.

        The spread is the standard deviation, over the seeds that all these categories have, of the mean
        over the categories.
        """
        common = self.common(metric)
        if not common:
            return Value(None, reason="no category has it for all weights")
        mean = statistics.fmean(self.values[category, weights, metric].mean for category in common)
        by_category = [self.seeds[category, weights, metric] for category in common]
        shared = set.intersection(*(set(seeds) for seeds in by_category))
        means = [statistics.fmean(seeds[seed] for seeds in by_category) for seed in sorted(shared)]
        return Value(mean, statistics.stdev(means) if len(means) > 1 else None)

    def common(self, metric: str) -> list[str]:
        """Categories in which every weight has the metric."""
        return [c for c in self.categories if all(self.seeds.get((c, w, metric)) for w in self.weights)]


def grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Rows by (data set, protocol, method), in the order of the rows."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["protocol"], row["method"]), []).append(row)
    return groups


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """One table a group of the rows of results.json; orders follow the rows, categories are sorted."""
    return [_table(key, group) for key, group in grouped(rows).items()]


def ordered_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """The given metrics, those that have a title, once each and in the order of `TITLES`."""
    present = set(metrics)
    return tuple(metric for metric in TITLES if metric in present)


def _table(key: tuple[str, str, str], rows: list[dict[str, Any]]) -> Table:
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["category"], row["weights"], row["metric"]), []).append(row)
    seeds = {
        cell: {row["seed"]: 100 * row["value"] for row in group if row["value"] is not None}
        for cell, group in cells.items()
    }
    return Table(
        *key,
        categories=tuple(sorted({row["category"] for row in rows})),
        weights=tuple(dict.fromkeys(row["weights"] for row in rows)),
        metrics=ordered_metrics(row["metric"] for row in rows if row["metric"] in SHOWN),
        values={cell: _value(list(seeds[cell].values()), group[0].get("reason")) for cell, group in cells.items()},
        seeds=seeds,
    )


def _value(values: list[float], reason: str | None) -> Value:
    if not values:
        return Value(None, reason=reason)
    return Value(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def short_names(weights: Sequence[str]) -> dict[str, str]:
    """Short, distinct names: a folder's own name (a run's for its export), else the name as it is."""
    names = {}
    for name in weights:
        path = PurePath(name.removeprefix("local-dir:"))
        path = path.parent if path.name == "export" else path
        names[name] = name if name.startswith("hf-hub:") or not path.name else path.name
    return names if len(set(names.values())) == len(names) else {name: name for name in weights}


def match_weights(rows: Sequence[dict[str, Any]], name: str) -> str:
    """The weights in `rows` of that name, in full or as `short_names` has it.

    Raises:
        SpdError: There are none.
    """
    names = short_names(list(dict.fromkeys(row["weights"] for row in rows)))
    for weights, short in names.items():
        if name in (weights, short):
            return weights
    raise SpdError(f"no weights {name!r} among the results; there are: {', '.join(names) or 'none'}")


def letters(table: Table) -> dict[str, str]:
    """One letter a weight, for narrow columns."""
    return {weights: chr(ord("A") + index) for index, weights in enumerate(table.weights)}


def print_tables(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print every table: rows are categories and their mean, columns are metrics and, in them, weights."""
    for table in tables(rows):
        names, letter = short_names(table.weights), letters(table)
        console.print(f"\n{table.title} (%)", style="bold")
        for view in _that_fit(table, console):
            console.print(view)
        several = len(table.weights) > 1
        for weights in table.weights:
            console.print(f"  {letter[weights] if several else 'weights'}: {names[weights]}", soft_wrap=True)
        for note in notes(table):
            console.print(f"  {note}", style="dim", soft_wrap=True)


def notes(table: Table) -> list[str]:
    """What a reader must know about dashes and means."""
    found = [f"–: {reason}" for reason in dict.fromkeys(v.reason for v in table.values.values() if v.reason)]
    known = [len(c) for metric in table.metrics if (c := table.common(metric))]
    if any(count < len(table.categories) for count in known):
        found.append("mean: over the categories in which all weights have the metric")
    return found


def _that_fit(table: Table, console: Console) -> list[RichTable]:
    """One table, or as many as the terminal's width needs; image and pixel metrics stay together."""
    unlimited = console.options.update(max_width=10_000)  # else a table measures as wide as it is cut
    for size in (6, 3, 2, 1):
        metrics = [table.metrics[first : first + size] for first in range(0, len(table.metrics), size)]
        views = [_rich_table(table, some) for some in metrics]
        if all(console.measure(view, options=unlimited).maximum <= console.width for view in views):
            break
    return views


def rich_view(*headers: str, show_footer: bool = False) -> RichTable:
    """An empty table for the terminal; all columns but the first are aligned to the right."""
    view = RichTable(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_footer=show_footer)
    for header in headers:
        view.add_column(header, justify="right" if view.columns else "left", no_wrap=True)
    return view


def _rich_table(table: Table, metrics: Sequence[str]) -> RichTable:
    letter = letters(table) if len(table.weights) > 1 else dict.fromkeys(table.weights, "")
    view = rich_view(show_footer=True)
    view.add_column("category", footer="mean", no_wrap=True)
    for metric in metrics:
        for weights in table.weights:
            header = TITLES[metric].replace(" ", "\n") + f"\n{letter[weights]}"
            view.add_column(header.strip(), justify="right", footer=str(table.mean(weights, metric)), no_wrap=True)
    for category in table.categories:
        columns = [(category, weights, metric) for metric in metrics for weights in table.weights]
        view.add_row(category, *(str(table.values.get(column, Value(None))) for column in columns))
    return view
