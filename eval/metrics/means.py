"""Rows of results.json grouped by what may be compared, and the means that every table and comparison shows."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

Key = tuple[str, str, str]  # data set, protocol, method
Cells = Mapping[Any, Mapping[Any, float]]  # category -> seed -> value
Unit = Callable[[Any], Hashable]  # the unit that a category belongs to
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


def unit_means(cells: Cells, unit: Unit) -> list[float]:
    """One mean per unit: `mean_over_categories` of the unit's categories."""
    units: dict[Hashable, dict[Any, Mapping[Any, float]]] = {}
    for category, seeds in cells.items():
        units.setdefault(unit(category), {})[category] = seeds
    return [mean_over_categories(of_unit) for of_unit in units.values()]


def mean_over_units(cells: Cells, unit: Unit) -> float:
    """Mean of `unit_means`: a group of categories counts as much as one category."""
    return statistics.fmean(unit_means(cells, unit))


def spread_over_seeds(cells: Cells, mean: Callable[[Cells], float] = mean_over_categories) -> float | None:
    """Standard deviation of `mean` over the seeds that all categories have.

    Returns:
        None if the categories share fewer than two seeds.
    """
    shared = set.intersection(*(set(seeds) for seeds in cells.values()))
    means = [mean({category: {seed: seeds[seed]} for category, seeds in cells.items()}) for seed in sorted(shared)]
    return statistics.stdev(means) if len(means) > 1 else None


def unit_of(dataset: str, category: str, groups: Sequence[str] = ()) -> str:
    """The unit that a category belongs to: a group of categories that are not independent, or the category itself.

    Args:
        dataset: The data set of the category.
        category: Its name.
        groups: Patterns for `category` or `dataset/category`, with * and ?; the first that matches is the unit.
    """
    name = f"{dataset}/{category}"
    return next((group for group in groups if fnmatchcase(category, group) or fnmatchcase(name, group)), name)


def distinct(names: Iterable[_Name]) -> list[_Name]:
    """Each name once, in order of first appearance."""
    return list(dict.fromkeys(names))
