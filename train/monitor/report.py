"""`python -m train report RUN`: a run's curves as one page that needs nothing else."""

import json
import math
from html import escape
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_text

_PANELS = {
    "Loss": ("loss", "loss_base", "loss_spd"),
    "SPD accuracy": ("spd_accuracy",),
    "Accuracy on held-out images": ("val_top1", "val_top5", "val_knn_top1"),
    "Anomaly probe": ("probe_image_auroc", "probe_pixel_ap"),
    "Spread of embeddings (1 even, 0 collapsed)": ("feature_std",),
    "Directions that embeddings vary in": ("effective_rank",),
    "Gradient norm": ("gradient_norm",),
    "Steps skipped": ("skipped_steps",),
    "Learning rate": ("lr",),
    "Images per second": ("images_per_second",),
    "Share of time spent waiting for data": ("data_wait_fraction",),
    "GPU memory, GiB": ("gpu_memory_gib",),
}
_POINTS = 400  # of a curve: more than a screen shows
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 240, 64, 30, 10

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --faint: #767676; --line: #d8d8d8; --page: #fff;
  --c0: #1b62a5; --c1: #b3470b; --c2: #2f7d32; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --faint: #9a9a9a; --line: #3c3c3c; --page: #161616;
  --c0: #7ab6f0; --c1: #f0a06a; --c2: #86cf89; } }
body { margin: 0 auto; padding: 1rem; max-width: 82rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
main { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font-size: 13px; } .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.key { font-weight: 400; margin-right: 1rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 1em; height: 3px; margin-right: .4em; vertical-align: middle;
  background: var(--colour); }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top;
  overflow-wrap: anywhere; }
"""


def write_report(run: Path) -> Path:
    """Draw the curves of metrics.jsonl into report.html in the run's folder; returns that file.

    Raises:
        SpdError: the folder holds no run, or one that has logged nothing yet.
    """
    config = read_json(run / "config.json")
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError as error:
        raise SpdError(f"{run / 'metrics.jsonl'} cannot be read: {error.strerror}; has the run begun?") from error
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # being written just now
            continue
    if not rows:
        raise SpdError(f"{run / 'metrics.jsonl'} has no lines yet; try again after --log-every steps")
    known = {name for names in _PANELS.values() for name in names} | {"step", "epoch"}
    others = {name: (name,) for name in dict.fromkeys(n for row in rows for n in row) if name not in known}
    figures = [_figure(title, names, rows) for title, names in {**_PANELS, **others}.items()]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.resolve().name)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(run.resolve().name)}</h1>{_summary(run, config, rows)}<main>{''.join(figures)}</main>"
        f"<details><summary>Settings</summary><table>{_settings(config)}</table></details></html>\n"
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _summary(run: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    last = next((row for row in reversed(rows) if "epoch" in row), rows[-1])
    state = "finished" if (run / "export" / "training.json").exists() else "not finished"
    spd = config["spd"]["weight"]
    text = (
        f"{config['recipe']}{f' + SPD {spd:g}' if spd else ''}, {config['model']['arch']}, "
        f"{config['data']['image_size']} px; step {last['step']:,}, "
        f"epoch {last.get('epoch', 0):.2f} of {config['optim']['epochs']}, {state}"
    )
    return f"<p>{escape(text)}</p>"


def _settings(config: dict[str, Any], prefix: str = "") -> str:
    rows = []
    for name, value in config.items():
        if isinstance(value, dict):
            rows.append(_settings(value, f"{prefix}{name}."))
        else:
            rows.append(f"<tr><th>{escape(prefix + name)}</th><td>{escape(str(value))}</td></tr>")
    return "".join(rows)


def _figure(title: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """A panel with a curve for each name that has numbers; nothing where none has."""
    curves = {name: _thin([(row["step"], row[name]) for row in rows if _is_number(row.get(name))]) for name in names}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    xs, ys = zip(*(point for points in curves.values() for point in points), strict=True)
    ticks = _ticks(min(ys), max(ys))
    low, high = min(*ys, *ticks), max(*ys, *ticks)
    first, last = min(xs), max(xs)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - (value - low) / (high - low))

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.4g}</text>'
        for t in ticks
    ]
    parts += [
        f'<text x="{x(step):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{step:,}</text>'
        for step, anchor in {first: "start", last: "end"}.items()
    ]
    keys = []
    for i, (name, points) in enumerate(curves.items()):
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="var(--c{i})"/>')
        drawn = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{drawn}" stroke="var(--c{i})"/>')
        keys.append(f'<span class="key" style="--colour: var(--c{i})">{escape(name)} {points[-1][1]:.4g}</span>')
    said = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in curves.items())
    return (
        f"<figure><figcaption>{escape(title)}<br>{''.join(keys)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(said)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _thin(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `_POINTS`: means over stretches of steps; the last point stays as it is."""
    if len(points) <= _POINTS:
        return points
    length = math.ceil(len(points) / _POINTS)
    parts = [points[i : i + length] for i in range(0, len(points), length)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts[:-1]] + points[-1:]


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers across a range."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    span = high - low
    unit = 10 ** math.floor(math.log10(span / 4))
    unit *= next(factor for factor in (1, 2, 5, 10) if span / (factor * unit) <= 5)
    return [round(i * unit, 12) for i in range(math.floor(low / unit), math.ceil(high / unit) + 1)]
