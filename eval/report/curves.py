"""The plots of a report: ROC and precision-recall curves of all weights, and the image scores of one."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ..metrics.ranking import Ranking

Curve = dict[str, list[float]]
_POINTS = 160  # per curve as stored; areas are computed from all points, not from these
_AXES = {
    "ROC": ("false positive rate", "recall", "false", "recall"),
    "precision-recall": ("recall", "precision", "recall", "precision"),
}
# One style per weight, repeated after four: colours that colour-blind readers tell apart, and dashes without colour.
STYLES = (("#0072b2", "solid"), ("#d55e00", "dashed"), ("#009e73", "dotted"), ("#5b6472", "dashdot"))
_CLASSES = (("normal", "#009e73"), ("anomalous", "#d55e00"))
# Text stays text, and the same input gives the same bytes.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "spd", "font.family": "sans-serif", "font.size": 9}


def curve(ranking: Ranking) -> Curve:
    """Thin the ROC and precision-recall curves so that they can be kept with a cell.

    Args:
        ranking: Of images or of pixels.

    Returns:
        `false` (positive rate), `recall` and `precision` at up to 160 thresholds, each the score of a positive;
        recall ascends.
    """
    recall = ranking.true_from / ranking.true_from[-1]
    chosen = np.unique(np.searchsorted(recall, np.linspace(0, 1, _POINTS)).clip(max=recall.size - 1))
    precision = ranking.true_from / (ranking.true_from + ranking.false_from)
    values = {"false": ranking.false_from / max(1, ranking.negatives), "recall": recall, "precision": precision}
    return {name: [round(float(value), 4) for value in of[chosen]] for name, of in values.items()}


def plot_curves(curves: Sequence[Mapping[str, Curve]], unit: str) -> dict[str, str]:
    """Plot the curves of all weights.

    Args:
        curves: One mapping per weight from unit to `curve`'s result, in the order of `STYLES`; a weight may lack
            the unit.
        unit: "image" or "pixel".

    Returns:
        One SVG per kind of curve ("ROC", "precision-recall"); empty where no weight has the unit.
    """
    drawn = [(style_of(index), of[unit]) for index, of in enumerate(curves) if unit in of]
    return {kind: _plot(kind, drawn) for kind in _AXES} if drawn else {}


def style_of(index: int) -> tuple[str, str]:
    """Colour and line style of the weight with this index."""
    return STYLES[index % len(STYLES)]


def plot_scores(scores: Sequence[float], anomalous: Sequence[bool]) -> str:
    """Plot the image scores as ticks on one axis: normal images above, anomalous images below.

    Returns:
        SVG.
    """
    values, truth = np.asarray(scores), np.asarray(anomalous)
    with mpl.rc_context(SVG):
        figure = Figure(figsize=(6, 0.9), layout="constrained")
        axes = figure.subplots()
        rows = [values[truth == wanted] for wanted in (False, True)]
        axes.eventplot(rows, lineoffsets=[1, 0], linelengths=0.8, linewidths=1, colors=[c for _, c in _CLASSES])
        axes.set_yticks([1, 0], [name for name, _ in _CLASSES])
        axes.tick_params(left=False)
        axes.spines[["left", "top", "right"]].set_visible(False)
        return as_svg(figure)


def _plot(kind: str, curves: Sequence[tuple[tuple[str, str], Curve]]) -> str:
    across, up, x, y = _AXES[kind]
    with mpl.rc_context(SVG):
        figure = Figure(figsize=(2.6, 2.6), layout="constrained")
        axes = figure.subplots()
        for (colour, dashes), of in curves:
            ends = ([0.0, *of[x], 1.0], [0.0, *of[y], 1.0]) if kind == "ROC" else (of[x], of[y])
            axes.plot(*ends, color=colour, linestyle=dashes, linewidth=1.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=across, ylabel=up, xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.grid(color="#d9dde3", linewidth=0.6)
        return as_svg(figure)


def as_svg(figure: Figure) -> str:
    """Render a figure as SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
