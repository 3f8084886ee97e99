"""Tables as data, one per (data set, protocol, method), for the modules that render them: terminal, markup and html."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from spd_weights.errors import SpdError

from ..metrics.means import Key, distinct, group_rows, mean_over_categories, spread_over_seeds
from ..metrics.metrics import TITLES, in_table_order

# The metrics of a results table; results.json and the comparison hold all of them.
SHOWN = ("image_auroc", "image_aupr", "image_aupr_trapezoid", "image_f1max",
         "pixel_auroc", "pixel_aupr", "pixel_aupr_trapezoid", "pixel_aupro",
         "pixel_auroc_spotdiff", "pixel_aupr_spotdiff")  # fmt: skip
MILLISECONDS = "milliseconds_per_image"  # a column like a metric's, but not in percent
HEADERS = {**TITLES, MILLISECONDS: "ms per image"}
MARKS = {"better": "▲", "worse": "▼"}  # of a mean, where the comparison with the baseline decides


@dataclass(frozen=True)
class Value:
    """A metric in percent, or milliseconds: the mean over seeds, and over categories in the row of means.

    Attributes:
        mean: None where the metric is undefined.
        spread: Standard deviation over the seeds; None with fewer than two.
        reason: Why the metric is undefined.
    """

    mean: float | None
    spread: float | None = None
    reason: str | None = None

    def __format__(self, sign: str) -> str:
        """Format as "50.0 ±1.2", without the spread if there is none, or as a dash if undefined; `sign` may be "+"."""
        if self.mean is None:
            return "–"
        return f"{self.mean:{sign}.1f}" + (f" ±{self.spread:.1f}" if self.spread is not None else "")

    def __str__(self) -> str:
        """Format without a plus sign."""
        return format(self, "")


@dataclass(frozen=True)
class Table:
    """The values of one data set, protocol and method.

    Attributes:
        key: Data set, protocol and method.
        columns: Metrics in table order, and the milliseconds per image where they were measured.
        values: By (category, weights, metric).
        seeds: The same values per seed, in percent or milliseconds.
        regions: Number of defect regions of all categories, and how many of them AUPRO leaves out.
    """

    key: Key
    categories: tuple[str, ...]
    weights: tuple[str, ...]
    columns: tuple[str, ...]
    values: dict[tuple[str, str, str], Value]
    seeds: dict[tuple[str, str, str], dict[int, float]]
    regions: tuple[int, int]

    @property
    def title(self) -> str:
        """The heading of the table."""
        return " · ".join(self.key)

    def value(self, category: str, weights: str, column: str) -> Value:
        """The value of one category; undefined where it was not measured."""
        return self.values.get((category, weights, column), Value(None))

    def mean(self, weights: str, column: str) -> Value:
        """Mean over the categories in which all weights have a value, so that columns can be compared.

        The spread is the standard deviation of this mean over the seeds that all these categories have.
        """
        common = self.common(column)
        if not common:
            return Value(None, reason="no category has it for all weights")
        cells = {category: self.seeds[category, weights, column] for category in common}
        return Value(mean_over_categories(cells), spread_over_seeds(cells))

    def common(self, column: str) -> list[str]:
        """The categories in which all weights have a value."""
        return [c for c in self.categories if all(self.seeds.get((c, w, column)) for w in self.weights)]

    def letters(self) -> dict[str, str]:
        """A short label per weight for narrow columns: A to Z, then AA, AB and so on."""
        return {weights: _letter(index) for index, weights in enumerate(self.weights)}

    def notes(self) -> list[str]:
        """What a reader must know about dashes and means."""
        found = [f"–: {reason}" for reason in distinct(v.reason for v in self.values.values() if v.reason)]
        if any(value.spread is not None for value in self.values.values()):
            found.append("±: standard deviation over the seeds")
        known = [len(common) for column in self.columns if (common := self.common(column))]
        if any(count < len(self.categories) for count in known):
            found.append("mean: over the categories in which all weights have the metric")
        if MILLISECONDS in self.columns:
            found.append("ms per image: backbone and method, without decoding, on the machine that measured them")
        regions, left_out = self.regions
        if left_out:
            found.append(
                f"AUPRO leaves out {left_out} of {regions} defect regions: "
                "they have no pixel at the evaluated size, or lie outside the crop"
            )
        return found


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Make one table per (data set, protocol, method) in the order of the rows; categories are sorted.

    Args:
        rows: The rows of results.json.
    """
    return [_table(key, group) for key, group in group_rows(rows).items()]


def _table(key: Key, rows: list[dict[str, Any]]) -> Table:
    seeds: dict[tuple[str, str, str], dict[int, float]] = {}
    reasons: dict[tuple[str, str, str], str | None] = {}
    for row in rows:
        for column, value in ((row["metric"], row["value"]), (MILLISECONDS, row.get(MILLISECONDS))):
            cell = row["category"], row["weights"], column
            reasons.setdefault(cell, row.get("reason") if column == row["metric"] else None)
            of_seed = seeds.setdefault(cell, {})
            if value is not None:
                of_seed[row["seed"]] = value if column == MILLISECONDS else 100 * value
    return Table(
        key,
        categories=tuple(sorted({row["category"] for row in rows})),
        weights=tuple(distinct(row["weights"] for row in rows)),
        columns=_columns(rows),
        values={cell: _value(list(of_seed.values()), reasons[cell]) for cell, of_seed in seeds.items()},
        seeds=seeds,
        regions=_regions(rows),
    )


def _columns(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    metrics = in_table_order(row["metric"] for row in rows if row["metric"] in SHOWN)
    timed = any(row.get(MILLISECONDS) is not None for row in rows)
    return (*metrics, MILLISECONDS) if timed else metrics


def _regions(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """All defect regions, and those left out, of the categories whose rows count them."""
    counted = {row["category"]: (row["regions"], row["regions_left_out"]) for row in rows if "regions" in row}
    regions, left_out = map(sum, zip(*counted.values(), strict=True)) if counted else (0, 0)
    return regions, left_out


def _value(values: list[float], reason: str | None) -> Value:
    if not values:
        return Value(None, reason=reason)
    return Value(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _letter(index: int) -> str:
    more, last = divmod(index, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


def weights_names(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Short names of all weights in the rows of results.json; see `short_names`."""
    return short_names(distinct(row["weights"] for row in rows))


def short_names(weights: Sequence[str]) -> dict[str, str]:
    """Shorten local folders to their last part (a run's folder for its export), if all names stay distinct."""
    names = {}
    for name in weights:
        path = PurePath(name.removeprefix("local-dir:"))
        path = path.parent if path.name == "export" else path
        names[name] = name if name.startswith("hf-hub:") or not path.name else path.name
    return names if len(set(names.values())) == len(names) else {name: name for name in weights}


def match_weights(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Find weights by their full or short name.

    Args:
        rows: The rows of results.json.
        name: The full name, or the one that tables show.

    Raises:
        SpdError: No such weights were measured.
    """
    names = weights_names(rows)
    for weights, short in names.items():
        if name in (weights, short):
            return weights
    raise SpdError(f"no weights {name!r} among the results; there are: {', '.join(names) or 'none'}")
