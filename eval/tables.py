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


def print_tables(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print every table: rows are categories and their mean, columns are metrics and, in them, weights."""
    for table in tables(rows):
        several = len(table.weights) > 1
        letters = dict(zip(table.weights, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        names = short_names(table.weights)
        title = f"{table.dataset} · {table.protocol} · {table.method} (%)"
        view = RichTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=True)
        view.add_column("category", footer="mean", no_wrap=True)
        for metric in METRICS:
            for weights in table.weights:
                header = TITLES[metric].replace(" ", "\n") + (f"\n{letters[weights]}" if several else "")
                view.add_column(header, justify="right", footer=str(table.mean(weights, metric)))
        for category in table.categories:
            cells = [
                str(table.values.get((category, w, metric), Value(None))) for metric in METRICS for w in table.weights
            ]
            view.add_row(category, *cells)
        console.print(view)
        for weights in table.weights:
            console.print(f"  {letters[weights]} = {names[weights]}" if several else f"  weights: {names[weights]}")
        for reason in dict.fromkeys(v.reason for v in table.values.values() if v.reason):
            console.print(f"  – {reason}", style="dim")
