"""What a card opens with: the differences between the weights and their baselines, as a table and as a bar chart.

They are the `differences` of results.json (`eval.report.summary.differences`), which has the intervals: cards compute
no statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

KIND = [{
    "weights": str, "baseline": str, "protocol": str, "method": str, "metric": str, "value": float,
    "baseline_value": float, "difference": float, "spread": float, "low": float, "high": float, "units": float,
}]  # fmt: skip
"""The shape of `differences`, for `spd_weights.release.record.mismatch`."""

_TITLES = {"padim": "PaDiM", "patchcore": "PatchCore", "unet": "U-Net", "image_auroc": "image AUROC",
           "pixel_aupr": "pixel AP"}  # fmt: skip
_COLOURS = ("#2a78b8", "#d98a2b", "#5f9e4a", "#8a6bbd")
_LEFT, _RIGHT, _BAR, _GAP = 170, 50, 16, 14  # pixels
_WIDTH = 640

Entries = Sequence[Mapping[str, Any]]


def incomplete(entries: Entries) -> str | None:
    """What the first incomplete entry lacks; None if all are complete. Spreads and intervals may be null."""
    for entry in entries:
        known = {name for name, value in entry.items() if value is not None}
        missing = KIND[0].keys() - known - {"spread", "low", "high"} | KIND[0].keys() - entry.keys()
        if missing:
            return f"an entry of differences needs {', '.join(sorted(missing))}"
        if len(known & {"low", "high"}) == 1:
            return "an entry of differences has one end of an interval without the other"
    return None


def own(results: Mapping[str, Any] | None, weights_sha256: str | None) -> list[Mapping[str, Any]]:
    """The differences between these weights and others.

    Args:
        results: The content of results.json; None if nothing was evaluated.
        weights_sha256: These weights; None finds nothing.
    """
    rows = (results or {}).get("rows", [])
    names = {row["weights"] for row in rows if row.get("weights_sha256") == weights_sha256}
    return [entry for entry in (results or {}).get("differences", []) if entry["weights"] in names]


def table(entries: Entries) -> str:
    """The differences as Markdown: one line per method and metric, in percent and points."""
    baselines = _baselines(entries)
    values = [f"`{name}`" for name in baselines]
    lines = [
        ["", *values, "these weights", *(f"− {name}" for name in values)],
        ["---", *["---:"] * (2 * len(baselines) + 1)],
    ]
    for figure in _figures(entries):
        of_figure = {entry["baseline"]: entry for entry in entries if _title(entry) == figure}
        known = [of_figure.get(name) for name in baselines]
        own_value = next(f"{100 * entry['value']:.1f}" for entry in known if entry)
        before = [f"{100 * entry['baseline_value']:.1f}" if entry else "–" for entry in known]
        lines.append([figure, *before, own_value, *(_points(entry) if entry else "–" for entry in known)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def note(entries: Entries) -> str:
    """What the intervals are, and which figures have none."""
    with_interval = [entry for entry in entries if entry["low"] is not None]
    without = [f"{_title(entry)} ({entry['units']:g})" for entry in entries if entry["low"] is None]
    text = "Means over categories, in percent; ± is the standard deviation over seeds."
    if with_interval:
        text += " In brackets, and as thin lines in the chart: 95 % intervals over categories."
    if without:
        text += f" No interval, because too few independent categories have it: {', '.join(dict.fromkeys(without))}."
    return text


def chart(entries: Entries) -> str:
    """The differences as bars, in points, with their intervals: an SVG picture; the same input gives the same text."""
    baselines, figures = _baselines(entries), _figures(entries)
    ends = [100 * entry[key] for entry in entries for key in ("difference", "low", "high") if entry[key] is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    scale = (_WIDTH - _LEFT - _RIGHT) / ((high - low) or 1.0)
    group = _BAR * len(baselines) + _GAP
    height = 24 * (len(baselines) + 1) + group * len(figures)

    def x(points: float) -> float:
        return float(round(_LEFT + (points - low) * scale, 1))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="16" font-weight="bold">Difference in points</text>',
    ]
    for number, name in enumerate(baselines):
        top = 24 * (number + 1)
        parts.append(f'<rect x="8" y="{top}" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        parts.append(f'<text x="26" y="{top + 11}">against {escape(name)}</text>')
    first = 24 * (len(baselines) + 1)
    for line, figure in enumerate(figures):
        top = first + line * group
        parts.append(f'<text x="8" y="{top + group // 2}">{escape(figure)}</text>')
        for entry in (entry for entry in entries if _title(entry) == figure):
            number = baselines.index(entry["baseline"])
            parts += _bar(entry, top + number * _BAR, _COLOURS[number % len(_COLOURS)], x)
    parts.append(f'<line x1="{x(0)}" y1="{first - 4}" x2="{x(0)}" y2="{height - 6}" stroke="#333333"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(entry: Mapping[str, Any], top: int, colour: str, x: Callable[[float], float]) -> list[str]:
    """One bar from zero, its interval if it has one, and its value beside the longer of the two."""
    points = 100 * entry["difference"]
    start, end = sorted((x(0), x(points)))
    middle = top + _BAR / 2 - 1
    parts = [f'<rect x="{start}" y="{top}" width="{round(end - start, 1)}" height="{_BAR - 2}" fill="{colour}"/>']
    if entry["low"] is not None:
        low, high = x(100 * entry["low"]), x(100 * entry["high"])
        ticks = f"M{low} {top + 3}V{top + 11}M{high} {top + 3}V{top + 11}"
        parts.append(f'<path d="M{low} {middle}H{high}{ticks}" stroke="#111111"/>')
        end = max(end, high)
    return [*parts, f'<text x="{round(end + 5, 1)}" y="{top + 11}" font-size="11">{points:+.1f}</text>']


def _points(entry: Mapping[str, Any]) -> str:
    text = f"{100 * entry['difference']:+.1f}"
    if entry["spread"] is not None:
        text += f" ±{100 * entry['spread']:.1f}"
    return text + (f" ({100 * entry['low']:+.1f} to {100 * entry['high']:+.1f})" if entry["low"] is not None else "")


def _title(entry: Mapping[str, Any]) -> str:
    return f"{_TITLES.get(entry['method'], entry['method'])} {_TITLES.get(entry['metric'], entry['metric'])}"


def _figures(entries: Entries) -> list[str]:
    return list(dict.fromkeys(map(_title, entries)))


def _baselines(entries: Entries) -> list[str]:
    return list(dict.fromkeys(str(entry["baseline"]) for entry in entries))
