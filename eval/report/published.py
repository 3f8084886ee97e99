"""Published numbers for the same data set, protocol and method, from the files in reference/."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics.metrics import in_table_order
from .tables import Table

_REFERENCE = Path(__file__).parent / "reference"


@dataclass(frozen=True)
class Published:
    """What one reference file holds for a table.

    Attributes:
        metrics: The metrics published, in table order.
        rows: Values in percent by (source, backbone) and metric.
        sources: Title and note of each source that the rows name.
    """

    metrics: tuple[str, ...]
    rows: Mapping[tuple[str, str], Mapping[str, float]]
    sources: Mapping[str, Mapping[str, str]]


def published(table: Table) -> list[Published]:
    """Published means for the table's data set, protocol and method; empty where there are none."""
    found = []
    for path in sorted(_REFERENCE.glob("*.json")):
        reference = json.loads(path.read_text(encoding="utf-8"))
        if rows := _rows(reference, table):
            metrics = in_table_order(metric for values in rows.values() for metric in values)
            named = {source for source, _ in rows}
            sources = {key: source for key, source in reference["sources"].items() if key in named}
            found.append(Published(metrics, rows, sources))
    return found


def _rows(reference: dict[str, Any], table: Table) -> dict[tuple[str, str], dict[str, float]]:
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for row in reference["rows"]:
        if (reference["dataset"], row["protocol"], row["method"]) == table.key:
            for variant, suffix in (("base", ""), ("spd", " + SPD")):
                if variant in row:
                    values = rows.setdefault((row["source"], row["backbone"] + suffix), {})
                    values[row["metric"]] = 100 * row[variant]
    return rows
