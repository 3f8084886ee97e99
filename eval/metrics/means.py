"""Rows of results.json grouped by what may be compared, and the mean over categories that every table shows."""

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Key = tuple[str, str, str]  # data set, protocol, method
Cells = Mapping[Any, Mapping[Any, float]]  # category -> seed -> value
_Name = TypeVar("_Name", bound=Hashable)


def group_rows(rows: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Group rows by (data set, protocol, method), in the order of the rows."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["protocol"], row["method"]), []).append(row)
    return groups


def mean_over_categories(cells: Cells) -> float:
    """Mean over the categories of the mean over each category's seeds, so that every category counts the same.

    Args:
        cells: At least one category, each with at least one seed.
    """
    return statistics.fmean(statistics.fmean(seeds.values()) for seeds in cells.values())


def spread_over_seeds(cells: Cells) -> float | None:
    """Standard deviation, over the seeds that all categories have, of the mean over the categories.

    Returns:
        None where the categories share fewer than two seeds.
    """
    shared = set.intersection(*(set(seeds) for seeds in cells.values()))
    means = [statistics.fmean(seeds[seed] for seeds in cells.values()) for seed in sorted(shared)]
    return statistics.stdev(means) if len(means) > 1 else None


def distinct(names: Iterable[_Name]) -> list[_Name]:
    """Each name once, in order of first appearance."""
    return list(dict.fromkeys(names))
