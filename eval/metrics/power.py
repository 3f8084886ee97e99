"""How many categories and seeds a comparison needs to detect a difference."""

import math
import statistics
from dataclasses import dataclass

from scipy.special import nctdtr, stdtrit

from .compare import MIN_UNITS, TAIL
from .means import Cells, Unit, unit_means

MAX_UNITS = 1000


@dataclass(frozen=True)
class Noise:
    """What makes the measured difference of a category vary.

    Attributes:
        categories: Standard deviation of the true difference over categories.
        seeds: Standard deviation of a single measurement over the seeds of a category; None with one seed.
        measured_seeds: Seeds per category behind the estimate.
    """

    categories: float
    seeds: float | None
    measured_seeds: float

    def deviation(self, seeds: int) -> float:
        """Standard deviation, over categories, of a difference that is averaged over this many seeds."""
        return math.sqrt(self.categories**2 + (self.seeds or 0.0) ** 2 / seeds)


def estimate_noise(pairs: Cells, unit: Unit) -> Noise | None:
    """Split the variance of differences into that of categories and that of seeds.

    Args:
        pairs: Differences between two weights by category and seed.
        unit: The unit that a category belongs to.

    Returns:
        None with fewer than two units. With one seed, the noise of the seeds is part of that of the categories.
    """
    means = unit_means(pairs, unit) if pairs else []
    if len(means) < 2:
        return None
    measured = statistics.harmonic_mean([len(seeds) for seeds in pairs.values()])
    repeated = [list(seeds.values()) for seeds in pairs.values() if len(seeds) > 1]
    total = statistics.variance(means)
    if not repeated:
        return Noise(math.sqrt(total), None, measured)
    degrees = sum(len(values) - 1 for values in repeated)
    within = sum((len(values) - 1) * statistics.variance(values) for values in repeated) / degrees
    per_unit = within / measured * len(means) / len(pairs)  # a group averages the noise of its categories
    return Noise(math.sqrt(max(0.0, total - per_unit)), math.sqrt(within), measured)


def power(difference: float, deviation: float, units: int) -> float:
    """Probability that the interval over `units` categories excludes 0 on the right side, for normal differences.

    Args:
        difference: The true mean difference.
        deviation: Standard deviation of the differences over categories, in the same unit.
        units: Number of independent categories.
    """
    if deviation == 0:
        return 1.0
    quantile = stdtrit(units - 1, 1 - TAIL)
    shift = abs(difference) / deviation * math.sqrt(units)
    return float(1 - nctdtr(units - 1, shift, quantile))


def units_needed(difference: float, deviation: float, wanted: float) -> int | None:
    """Smallest number of independent categories with at least the wanted power; None beyond `MAX_UNITS`."""
    low, high = MIN_UNITS, MAX_UNITS
    if power(difference, deviation, high) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, deviation, middle) >= wanted else (middle + 1, high)
    return low


def seeds_needed(spread: float, standard_error: float) -> int:
    """Number of seeds that brings the standard error of a mean down to the given one; at least one."""
    return max(1, math.ceil((spread / standard_error) ** 2))
