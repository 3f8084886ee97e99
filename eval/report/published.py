"""Published numbers for the same data set, protocol and method, from the files in reference/.

A file holds `dataset`, `sources` (title and note by key) and `rows`. A row has `source`, `protocol`, `method`,
`backbone` and `metric`; `base` is the published mean over all objects and `spd`, if given, the same backbone with SPD;
`objects`, if given, holds the values of `base` per object, of all or some objects. Values are fractions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..metrics.metrics import TITLES, in_table_order
from .tables import Table, Value

_REFERENCE = Path(__file__).parent / "reference"

_OBJECTS = 12  # of VisA, in published means

Backbone = tuple[str, str]  # source, backbone
Line = tuple[str, str, list[Value]]  # name, its source or extent, one value per column


@dataclass(frozen=True)
class Published:
    """What one reference file holds for a table; values in percent.

    Attributes:
        means: Means over all objects by backbone and metric.
        objects: Values by metric, backbone and object; only what was published per object.
        sources: Title and note of each source.
    """

    means: dict[Backbone, dict[str, float]] = field(default_factory=dict)
    objects: dict[str, dict[Backbone, dict[str, float]]] = field(default_factory=dict)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics with published means, in table order."""
        return in_table_order(metric for values in self.means.values() for metric in values)


@dataclass(frozen=True)
class Beside:
    """Published values with ours below them."""

    label: str
    corner: str  # header of the names
    columns: list[str]
    published: list[Line]
    ours: list[Line]


def beside(reference: Published, table: Table, names: Mapping[str, str]) -> list[Beside]:
    """One table per metric that was published per object, and one of means.

    Args:
        reference: For `table`.
        table: Our values.
        names: Short names of the weights.
    """
    found = [
        Beside(
            f"Published {TITLES[metric]} per object",
            TITLES[metric],
            list(table.categories),
            [(of, source, _values(values, table.categories)) for (source, of), values in backbones.items()],
            [(names[w], "this page", [table.value(c, w, metric) for c in table.categories]) for w in table.weights],
        )
        for metric, backbones in reference.objects.items()
    ]
    metrics, measured = reference.metrics, f"this page, {len(table.categories)} of {_OBJECTS} objects"
    means = Beside(
        "Published means",
        "mean over objects",
        [TITLES[metric] for metric in metrics],
        [
            (of, f"{source}, {_OBJECTS} objects", _values(values, metrics))
            for (source, of), values in reference.means.items()
        ],
        [(names[w], measured, [table.mean(w, metric) for metric in metrics]) for w in table.weights],
    )
    return [*found, means]


def _values(values: Mapping[str, float], columns: Sequence[str]) -> list[Value]:
    return [Value(values.get(column)) for column in columns]


def published(table: Table, splits: Mapping[str, str]) -> list[Published]:
    """Published numbers for the table's data set, protocol and method.

    Args:
        table: What was measured.
        splits: The split by "dataset/category protocol", as in the configuration of results.json.

    Returns:
        One entry per reference file; empty unless all categories were measured on the official split.
    """
    dataset, protocol, _ = table.key
    if any(splits.get(f"{dataset}/{category} {protocol}") != "official" for category in table.categories):
        return []
    files = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(_REFERENCE.glob("*.json")))
    found = [_published(reference, table) for reference in files]
    return [one for one in found if one.means]


def _published(reference: dict[str, Any], table: Table) -> Published:
    found = Published()
    for row in reference["rows"]:
        if (reference["dataset"], row["protocol"], row["method"]) != table.key:
            continue
        backbone = row["source"], row["backbone"]
        found.sources[row["source"]] = reference["sources"][row["source"]]
        found.means.setdefault(backbone, {})[row["metric"]] = 100 * row["base"]
        if "spd" in row:
            with_spd = row["source"], row["backbone"] + " + SPD"
            found.means.setdefault(with_spd, {})[row["metric"]] = 100 * row["spd"]
        if "objects" in row:
            values = {name: 100 * value for name, value in row["objects"].items()}
            found.objects.setdefault(row["metric"], {})[backbone] = values
    return found
