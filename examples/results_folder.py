"""What a folder under results/ keeps: its tables, and the measurements that they are rendered from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spd_weights.files import write_json, write_text
from spd_weights.release.results import public_name, read

METRICS = ("image_auroc", "image_aupr", "pixel_aupr", "pixel_aupro")
"""Metrics that are kept. The others would make the file several times as large, and no table shows them."""


def keep_results(evaluation: Path, to: Path, groups: Sequence[str]) -> None:
    """Copy an evaluation's results.json, with `METRICS` only and without the paths of this machine.

    Args:
        evaluation: The --out of `python -m eval`.
        to: The folder to copy to; created if missing.
        groups: Patterns of categories that its tables count as one; kept as `config.groups`.
    """
    results = read(evaluation / "results.json")
    to.mkdir(parents=True, exist_ok=True)
    config = {**results["config"], "groups": list(groups)}
    rows = [row for row in results["rows"] if row["metric"] in METRICS]
    write_json(to / "results.json", {**results, "config": config, "rows": rows})


def keep_rows(content: dict[str, Any], to: Path) -> None:
    """Write a JSON file of rows that name their weights, without the paths of this machine."""
    rows = [{**row, "weights": public_name(row["weights"])} for row in content["rows"]]
    write_json(to, {**content, "rows": rows})


def markdown_table(lines: list[list[str]]) -> str:
    """A table whose first column is text and whose others are numbers; the first line is the header."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def write_page(folder: Path, page: Callable[[Path], str]) -> Path:
    """Write what `page` renders of a folder to its tables.md, and return that path."""
    write_text(folder / "tables.md", page(folder))
    return folder / "tables.md"
