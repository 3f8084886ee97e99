"""Tables and comparisons printed to the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from ..metrics.compare import Comparison
from ..metrics.means import distinct
from ..metrics.metrics import TITLES
from .comparison import comparison_notes, comparison_texts
from .tables import HEADERS, Table, short_names, tables


def print_tables(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print every table: one row per category and the mean, one column per metric and weight.

    Args:
        rows: The rows of results.json.
        console: Decides the width; a table that is too wide is split by metrics.
    """
    for table in tables(rows):
        names, letter = short_names(table.weights), table.letters()
        print_title(f"{table.title} (%)", console)
        for view in _fitting(table, console):
            console.print(view)
        several = len(table.weights) > 1
        for weights in table.weights:
            console.print(f"  {letter[weights] if several else 'weights'}: {escape(names[weights])}", soft_wrap=True)
        for note in table.notes():
            console.print(f"  {escape(note)}", style="dim", soft_wrap=True)


def print_comparison(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print one table per (data set, protocol, method, weights), in percentage points."""
    names = short_names(distinct(name for c in comparisons for name in (c.baseline, c.weights)))
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((*comparison.key, comparison.weights), []).append(comparison)
    for (*where, weights), group in groups.items():
        print_title(f"{' · '.join(where)}: {names[weights]} − {names[group[0].baseline]} (points)", console)
        view = grid("metric", "difference", "95 % interval", "verdict", "n")
        for comparison in group:
            view.add_row(TITLES[comparison.metric], *comparison_texts(comparison))
        console.print(view)
        for note in comparison_notes(group):
            console.print(f"  {escape(note)}", style="dim", soft_wrap=True)


def _fitting(table: Table, console: Console) -> list[Grid]:
    """Split a table until each part fits the terminal: by metrics, image and pixel metrics apart, then by weights."""
    unlimited = console.options.update(max_width=10_000)  # otherwise a table measures no wider than the terminal
    sizes = [(columns, len(table.weights)) for columns in (len(table.columns), 4, 2, 1)] + [
        (1, weights) for weights in (8, 4, 2, 1)
    ]
    for columns, weights in sizes:
        views = [
            _results_grid(table, some, few)
            for some in _parts(table.columns, columns)
            for few in _parts(table.weights, weights)
        ]
        if all(console.measure(view, options=unlimited).maximum <= console.width for view in views):
            break
    return views


def _parts(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _results_grid(table: Table, metrics: Sequence[str], weights: Sequence[str]) -> Grid:
    letter = table.letters() if len(table.weights) > 1 else dict.fromkeys(table.weights, "")
    view = grid(show_footer=True)
    view.add_column("category", footer="mean", no_wrap=True)
    columns = [(metric, name) for metric in metrics for name in weights]
    for metric, name in columns:
        header = HEADERS[metric].replace(" ", "\n") + f"\n{letter[name]}"
        view.add_column(header.strip(), justify="right", footer=str(table.mean(name, metric)), no_wrap=True)
    for category in table.categories:
        view.add_row(escape(category), *(str(table.value(category, name, metric)) for metric, name in columns))
    return view


def print_title(text: str, console: Console) -> None:
    """Print a heading after an empty line."""
    console.print(f"\n{escape(text)}", style="bold")


def grid(*headers: str, show_footer: bool = False) -> Grid:
    """Make an empty table; all columns but the first are aligned to the right."""
    view = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_footer=show_footer)
    for header in headers:
        view.add_column(header, justify="right" if view.columns else "left", no_wrap=True)
    return view
