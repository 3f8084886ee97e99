"""ROC and precision-recall curves: thinned to be kept with a cell, and drawn as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..metrics.ranking import Ranking

_POINTS = 160  # a curve; areas are computed from all points, not from these
_SIDE, _LEFT, _BOTTOM = 200, 30, 26  # of a plot's square and its margins, in SVG units
_AXES = {
    "ROC": ("false positive rate", "recall", "false", "recall"),
    "precision-recall": ("recall", "precision", "recall", "precision"),
}


def curve(ranking: Ranking) -> dict[str, list[float]]:
    """False positive rate, recall and precision at thresholds that are scores of positives, recall ascending."""
    recall = ranking.true_from / ranking.true_from[-1]
    chosen = np.unique(np.searchsorted(recall, np.linspace(0, 1, _POINTS)).clip(max=recall.size - 1))
    precision = ranking.true_from / (ranking.true_from + ranking.false_from)
    values = {"false": ranking.false_from / max(1, ranking.negatives), "recall": recall, "precision": precision}
    return {name: [round(float(value), 4) for value in of[chosen]] for name, of in values.items()}


def curve_plots(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Plots of all weights' curves, one a unit (image, pixel) and kind.

    Args:
        curves: By weights' short name, then by unit, as of `curve`; weights without curves are left out.
    """
    plots = ""
    for unit in ("image", "pixel"):
        drawn = {f"w{i}": of[unit] for i, of in enumerate(curves.values()) if unit in of}
        label = f"of {unit}s: {', '.join(name for name, of in curves.items() if unit in of)}"
        plots += "".join(_plot(unit, kind, drawn, label) for kind in _AXES) if drawn else ""
    if not plots:
        return ""
    keys = "".join(
        f'<span><svg viewBox="0 0 24 8" aria-hidden="true"><path class="w{i}" d="M0 4H24"/></svg>{escape(name)}</span>'
        for i, name in enumerate(curves)
    )
    return f'<p class="soft key">{keys}</p><div class="curves">{plots}</div>'


def _plot(unit: str, kind: str, curves: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> str:
    across, up, x, y = _AXES[kind]
    ends = kind == "ROC"
    lines = "".join(f'<path class="{name}" d="{_path(of[x], of[y], ends)}"/>' for name, of in curves.items())
    right, bottom = _LEFT + _SIDE, 6 + _SIDE
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {bottom - _SIDE * t:.0f}H{right}M{_LEFT + _SIDE * t:.0f} 6V{bottom}"/>'
        for t in (0, 0.5, 1)
    )
    box = f"0 0 {right + 8} {bottom + _BOTTOM}"
    return f"""<figure><svg viewBox="{box}" role="img" aria-label="{kind} curve {escape(label)}">{grid}{lines}
<text x="{_LEFT - 4}" y="{bottom}" class="end">0</text><text x="{_LEFT - 4}" y="12" class="end">1</text>
<text x="{_LEFT + _SIDE / 2:.0f}" y="{bottom + 18}" class="middle">{across}</text>
<text x="{-bottom + _SIDE / 2:.0f}" y="14" class="middle" transform="rotate(-90)">{up}</text></svg>
<figcaption>{unit} {kind}</figcaption></figure>"""


def _path(across: Sequence[float], up: Sequence[float], ends: bool) -> str:
    points = [*zip(across, up, strict=True)]
    points = [(0.0, 0.0), *points, (1.0, 1.0)] if ends else points
    return "M" + "L".join(f"{_LEFT + _SIDE * x:.1f} {6 + _SIDE * (1 - y):.1f}" for x, y in points)
