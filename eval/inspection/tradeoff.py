"""What a threshold costs: false alarms among good parts against missed ones among known defects."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from spd_weights.errors import SpdError
from spd_weights.files import write_text

from ..metrics import ranking
from ..report.curves import SVG, as_svg

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # of false alarms in the printed table


@dataclass(frozen=True)
class Point:
    """One threshold: how many good parts are above it, and how many defective ones are not."""

    threshold: float
    false_alarms: int
    missed: int


@dataclass(frozen=True)
class TradeOff:
    """Scores of good parts that the detector had not seen, and of defective ones.

    Attributes:
        normal: float32 [N].
        defective: float32 [M].
        pixel_ap: Average precision of the maps over the pixels of photographs with a mask; None without masks.
    """

    normal: np.ndarray
    defective: np.ndarray
    pixel_ap: float | None = None

    @property
    def auroc(self) -> float:
        """The probability that a defective part scores higher than a good one."""
        return ranking.roc_area(ranking.rank(self.defective, self.normal))

    def at(self, threshold: float) -> Point:
        """Count the errors at one threshold."""
        return Point(threshold, int((self.normal > threshold).sum()), int((self.defective <= threshold).sum()))

    def curve(self) -> list[Point]:
        """All distinct pairs of errors, from the lowest threshold to the highest good part."""
        scores = np.unique(np.concatenate([self.normal, self.defective[self.defective < self.normal.max()]]))
        return [self.at(float(score)) for score in scores]

    def table(self) -> list[Point]:
        """The lowest thresholds with at most 0, 1, 2, 5, 10 and 20 % of false alarms, each once."""
        descending = np.sort(self.normal)[::-1]
        chosen = dict.fromkeys(float(descending[int(share * len(descending))]) for share in _SHARES)
        return [self.at(threshold) for threshold in chosen]


def write_trade_off(beside: Path, found: TradeOff, chosen: float) -> list[Path]:
    """Write the curve as a table and as a plot.

    Args:
        beside: The detector; the files are called after it, `<name>-tradeoff.csv` and `<name>-tradeoff.svg`.
        found: The scores.
        chosen: The detector's threshold, which the plot marks.

    Returns:
        Both paths.

    Raises:
        SpdError: They cannot be written.
    """
    table, plot = (beside.with_name(f"{beside.stem}-tradeoff.{kind}") for kind in ("csv", "svg"))
    curve = found.curve()
    try:
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["threshold", "false_alarms", "of_good", "missed", "of_defective"])
            writer.writerows(
                [p.threshold, p.false_alarms, len(found.normal), p.missed, len(found.defective)] for p in curve
            )
        write_text(plot, _plot(found, curve, chosen))
    except OSError as error:
        raise SpdError(f"{beside.parent}: the trade-off cannot be written ({error.strerror})") from error
    return [table, plot]


def _plot(found: TradeOff, curve: Sequence[Point], chosen: float) -> str:
    def percent(point: Point) -> tuple[float, float]:
        return 100 * point.false_alarms / len(found.normal), 100 * point.missed / len(found.defective)

    with mpl.rc_context(SVG):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.step(*zip(*map(percent, curve), strict=True), where="post", color="#0072b2")
        axes.plot(*percent(found.at(chosen)), "o", color="#d55e00", label=f"threshold {chosen:.4g}")
        axes.set(xlabel="false alarms (% of good parts)", ylabel="missed (% of defective parts)")
        axes.legend()
        return as_svg(figure)
