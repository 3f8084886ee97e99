"""Rows of results.json arranged for reading: one table a (data set, protocol, method)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from eval.metrics import IMAGE_METRICS, PIXEL_METRICS

METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
TITLES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AP",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AP",
    "pixel_aupro": "pixel AUPRO",
}


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
    values: dict[tuple[str, str, str], Value]  # (category, weights, metric)

    def mean(self, weights: str, metric: str) -> Value:
        """Mean over the categories in which every weight has the metric, so that columns compare."""
        common = self.common(metric)
        if not common:
            return Value(None, reason="no category has it for all weights")
        return Value(statistics.fmean(self.values[category, weights, metric].mean for category in common))

    def common(self, metric: str) -> list[str]:
        """Categories in which every weight has the metric."""
        missing = Value(None)
        return [
            c
            for c in self.categories
            if all(self.values.get((c, w, metric), missing).mean is not None for w in self.weights)
        ]


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Group the rows of results.json; orders follow the rows, categories are sorted."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["protocol"], row["method"]), []).append(row)
    return [_table(key, group) for key, group in groups.items()]


def _table(key: tuple[str, str, str], rows: list[dict[str, Any]]) -> Table:
    seeds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        seeds.setdefault((row["category"], row["weights"], row["metric"]), []).append(row)
    return Table(
        *key,
        categories=tuple(sorted({row["category"] for row in rows})),
        weights=tuple(dict.fromkeys(row["weights"] for row in rows)),
        values={cell: _value(group) for cell, group in seeds.items()},
    )


def _value(rows: list[dict[str, Any]]) -> Value:
    values = [100 * row["value"] for row in rows if row["value"] is not None]
    if not values:
        return Value(None, reason=rows[0].get("reason"))
    return Value(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def short_names(weights: Sequence[str]) -> dict[str, str]:
    """Short, distinct names: a folder's own name (a run's for its export), else the name as it is."""
    names = {}
    for name in weights:
        path = PurePath(name.removeprefix("local-dir:"))
        path = path.parent if path.name == "export" else path
        names[name] = name if name.startswith("hf-hub:") or not path.name else path.name
    return names if len(set(names.values())) == len(names) else {name: name for name in weights}


def letters(table: Table) -> dict[str, str]:
    """One letter a weight, for narrow columns."""
    return {weights: chr(ord("A") + index) for index, weights in enumerate(table.weights)}


def print_tables(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print every table: rows are categories and their mean, columns are metrics and, in them, weights."""
    for table in tables(rows):
        names, letter = short_names(table.weights), letters(table)
        console.print(f"\n{table.dataset} · {table.protocol} · {table.method} (%)", style="bold")
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
    known = [len(c) for metric in METRICS if (c := table.common(metric))]
    if any(count < len(table.categories) for count in known):
        found.append("mean: over the categories in which all weights have the metric")
    return found


def _that_fit(table: Table, console: Console) -> list[RichTable]:
    """One table, or as many as the terminal's width needs; image and pixel metrics stay together."""
    unlimited = console.options.update(max_width=10_000)  # else a table measures as wide as it is cut
    for size in (6, 3, 2, 1):
        views = [_rich_table(table, METRICS[first : first + size]) for first in range(0, len(METRICS), size)]
        if all(console.measure(view, options=unlimited).maximum <= console.width for view in views):
            break
    return views


def _rich_table(table: Table, metrics: Sequence[str]) -> RichTable:
    letter = letters(table) if len(table.weights) > 1 else dict.fromkeys(table.weights, "")
    view = RichTable(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_footer=True)
    view.add_column("category", footer="mean", no_wrap=True)
    for metric in metrics:
        for weights in table.weights:
            header = TITLES[metric].replace(" ", "\n") + f"\n{letter[weights]}"
            view.add_column(header.strip(), justify="right", footer=str(table.mean(weights, metric)), no_wrap=True)
    for category in table.categories:
        columns = [(category, weights, metric) for metric in metrics for weights in table.weights]
        view.add_row(category, *(str(table.values.get(column, Value(None))) for column in columns))
    return view
