"""report.html: one self-contained page that shows results.json and the stored figures."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spd_weights.files import read_json, write_text

from ..metrics.compare import Comparison
from ..metrics.means import distinct
from ..metrics.metrics import TITLES
from ..results import CELL, cell_folder, read_results
from .comparison import comparison_notes, comparison_texts, last_comparison
from .curves import plot_curves, plot_scores, style_of
from .markup import write_tables
from .published import Published, beside, published
from .tables import HEADERS, MARKS, Table, tables, weights_names

_OPEN = 24  # with more categories than this on the page, their figures are collapsed so that tables can be found


@dataclass(frozen=True)
class _Figures:
    """The figures of one cell: weights on a category. `content` is cell.json, empty where figures were not kept."""

    weights: str
    folder: Path
    content: dict[str, Any]

    @property
    def scores_plot(self) -> str:
        return _data_uri(plot_scores(self.content["scores"], self.content["anomalous"]).encode(), "svg+xml")

    def picture(self, figure: dict[str, Any], kind: str) -> str | None:
        """The data URI of a photograph or heat map, if there is one."""
        path = self.folder / f"{figure['rank']}-{kind}.jpg"
        return _data_uri(path.read_bytes(), "jpeg") if path.is_file() else None


@dataclass(frozen=True)
class _Category:
    """The figures of all weights on one category."""

    name: str
    figures: list[_Figures]

    def plots(self, unit: str) -> dict[str, str]:
        """One data URI per kind of curve."""
        drawn = plot_curves([cell.content.get("curves", {}) for cell in self.figures], unit)
        return {kind: _data_uri(svg.encode(), "svg+xml") for kind, svg in drawn.items()}


@dataclass(frozen=True)
class _Section:
    """A results table with what belongs to it."""

    table: Table
    comparisons: list[Comparison]
    published: list[Published]
    categories: list[_Category]

    def verdict(self, weights: str, metric: str) -> str | None:
        """The verdict on a mean; None for the baseline."""
        verdicts = {(c.weights, c.metric): c.verdict for c in self.comparisons}
        return verdicts.get((weights, metric))


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html, tables.md and tables.tex from `folder`/results.json and the cells' figures.

    Returns:
        The path of the page.

    Raises:
        SpdError: results.json is missing or damaged.
    """
    results = read_results(folder)
    rows = results["rows"]
    comparisons = last_comparison(folder, rows)
    sections = [
        _Section(
            table,
            [c for c in comparisons if c.key == table.key],
            published(table, results["config"].get("split", {})),
            [_category(folder, table, name, rows) for name in table.categories],
        )
        for table in tables(rows)
    ]
    page = (
        _environment()
        .get_template("page.html")
        .render(
            results=results,
            names=weights_names(rows),
            sections=sections,
            opened=sum(len(section.table.categories) for section in sections) <= _OPEN,
            measured=_measured(results),
            machine=json.dumps({"config": results["config"], "environment": results["environment"]}, indent=2),
        )
    )
    write_text(folder / "report.html", page)
    write_tables(folder, rows, comparisons)
    return folder / "report.html"


def _environment() -> Environment:
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "TITLES": TITLES,
        "HEADERS": HEADERS,
        "MARKS": MARKS,
        "style_of": style_of,
        "beside": beside,
    }
    environment.globals |= {"comparison_texts": comparison_texts, "comparison_notes": comparison_notes}
    return environment


def _category(folder: Path, table: Table, category: str, rows: Sequence[dict[str, Any]]) -> _Category:
    """The figures of each weight's first seed."""
    dataset, protocol, method = table.key
    where = {"dataset": dataset, "category": category, "protocol": protocol, "method": method}
    figures = []
    for weights in table.weights:
        key = {**where, "weights": weights}
        seeds = [row["seed"] for row in rows if key.items() <= row.items()]
        if seeds:
            cell = cell_folder(folder, {**key, "seed": min(seeds)})
            content = read_json(cell / CELL) if (cell / CELL).is_file() else {}
            figures.append(_Figures(weights, cell, content))
    return _Category(category, figures)


def _measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per weight: name, about, digest, seconds and number of cells."""
    found = []
    for weights in distinct(row["weights"] for row in results["rows"]):
        own = [row for row in results["rows"] if row["weights"] == weights]
        cells = {(r["dataset"], r["category"], r["protocol"], r["method"], r["seed"]): r["seconds"] for r in own}
        found.append(
            {
                "weights": weights,
                "about": results["config"]["weights"].get(weights, {}),
                "sha256": own[0]["weights_sha256"],
                "seconds": sum(cells.values()),
                "cells": len(cells),
            }
        )
    return found


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
