"""Render tables.md of a folder that `python -m examples.adapt_table` filled, from the JSON files beside it.

    python -m examples.adapt_page results/adapt_confirm

For each start: means over the categories, differences per category against the start and against the rescaled start,
the four rows of each category, and what was measured besides.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.metrics.means import distinct
from eval.metrics.metrics import TITLES
from eval.report.summary import COLUMNS, differences, summary
from eval.results import read_results
from examples.results_folder import markdown_table, write_page
from spd_weights.files import read_json

FEATURES, PROBE = "features.json", "probe.json"

_HEAD = """# The recipe `adapt` against its start

Means over categories in percent; ± is the standard deviation over seeds of the detectors and of the trainings.
Intervals (95 %) are over categories, and need at least six. `_rescaled` is the recipe with η = 0. It computes exactly
what the start computes, with its maps multiplied by `--adapt.scales`, so it is both controls: the rescaled start, and
the recipe without SPD.
"""
_FIGURES = [f"{COLUMNS[key]} {TITLES[key[-1]]}" for key in COLUMNS if key[0] == "1cls"]

Rows = Sequence[dict[str, Any]]


def page(folder: Path) -> str:
    """Render tables.md.

    Args:
        folder: Holds results.json; features.json and probe.json are used if present.
    """
    results = read_results(folder)
    rows, groups = results["rows"], results["config"].get("groups", [])
    names = distinct(row["weights"] for row in rows)
    extras = {name: read_json(folder / name)["rows"] for name in (FEATURES, PROBE) if (folder / name).is_file()}
    parts = [_HEAD]
    for label, compared in compared_weights(names).items():
        start, rescaled, recipe, *_ = compared
        parts += [f"## {start}", four_rows(rows, compared, groups)]
        for baseline in (start, rescaled):
            parts += [f"### `{recipe}` − `{baseline}` by category", by_category(rows, recipe, baseline, groups)]
        for category in categories(rows):
            parts += [f"### {category}", four_rows(rows, compared, (), category)]
        of_start = [name for name in names if name == start or name.startswith(f"{label}_")]
        parts += ["### Speed, general knowledge and features", besides(rows, of_start, extras)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def compared_weights(names: Sequence[str]) -> dict[str, list[str]]:
    """For each architecture: its start, the rescaled start, the recipe, and released weights if any were evaluated."""
    found = {}
    for control in names:
        label = control.removesuffix("_rescaled")
        if label != control:
            start = next(name for name in names if name.split(".")[0] == label)
            released = [name for name in names if name.startswith(f"{label}_spd")]
            found[label] = [start, control, f"{label}_adapt", *released]
    return found


def all_differences(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The differences of all weights to their start and to their rescaled start, as cards show them."""
    rows, groups = results["rows"], results["config"].get("groups", [])
    return [
        entry
        for compared in compared_weights(distinct(row["weights"] for row in rows)).values()
        for weights in compared[1:]
        for baseline in compared[:2]
        if weights != baseline
        for entry in differences(rows, weights, baseline, groups)
    ]


def categories(rows: Rows) -> list[str]:
    """All categories as DATASET/NAME."""
    return distinct(f"{row['dataset']}/{row['category']}" for row in rows)


def four_rows(rows: Rows, names: Sequence[str], groups: Sequence[str], category: str | None = None) -> str:
    """One row per weight: the start, the rescaled start, and others; then the differences to both."""
    chosen = [category] if category else []
    to_rescaled = summary(rows, [names[1:]], chosen, groups).splitlines()[-len(names[2:]) :]
    return "\n".join([summary(rows, [names], chosen, groups), *to_rescaled])


def by_category(rows: Rows, weights: str, baseline: str, groups: Sequence[str]) -> str:
    """One line of differences per category, and their mean."""
    lines = [["", *_FIGURES]]
    for category in [*categories(rows), None]:
        chosen = [category] if category else []
        head, *_, last = summary(rows, [[baseline, weights]], chosen, groups).splitlines()
        values = dict(zip(_cells(head), _cells(last), strict=True))
        lines.append([category or "**mean**", *(values.get(name, "–") for name in _FIGURES)])
    return markdown_table(lines)


def besides(rows: Rows, names: Sequence[str], extras: dict[str, Rows]) -> str:
    """Time per image, accuracy of the linear probe, and per stage the features' size and stability."""
    probed = {row["weights"]: row["top1"] for row in extras.get(PROBE, [])}
    health = {row["weights"]: row["stages"] for row in extras.get(FEATURES, [])}
    stages = [stage["stage"] for stage in health.get(names[0], [])]
    columns = [f"{stage}: RMS, cosine" for stage in stages]
    head = ["", "PaDiM ms per image", "PatchCore ms per image", "linear probe top-1", *columns]
    lines = [head]
    for name in names:
        times = [_milliseconds(rows, name, method) for method in ("padim", "patchcore")]
        accuracy = f"{100 * probed[name]:.1f}" if name in probed else "–"
        features = [f"{stage['rms']:.3g}, {stage['cosine']:.4f}" for stage in health.get(name, [])]
        lines.append([f"`{name}`", *times, accuracy, *features])
    return markdown_table(lines)


def _milliseconds(rows: Rows, name: str, method: str) -> str:
    """Mean time per test image, of the backbone and the method."""
    found = [row.get("milliseconds_per_image") for row in rows if (row["weights"], row["method"]) == (name, method)]
    measured = [value for value in found if value is not None]
    return f"{fmean(measured):.1f}" if measured else "–"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1]), page))
