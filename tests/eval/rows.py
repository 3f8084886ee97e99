"""Rows of results.json made by hand."""

from pathlib import Path
from typing import Any

from spd_weights.files import write_json


def row(weights: str, category: str, value: float | None, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One row of results.json; `changes` replace or add entries."""
    where = {"dataset": "set", "category": category, "protocol": "1cls", "method": "padim", "seed": seed}
    measured = {"metric": "image_auroc", "value": value, "weights_sha256": None, "seconds": 1.0}
    return {"weights": weights, **where, **measured, **changes}


def write_results(folder: Path, rows: list[dict[str, Any]], **config: Any) -> Path:
    """A results.json with these rows and entries of the configuration; returns the folder."""
    config = {"image_size": 64, "resize": "square", "weights": {}, **config}
    content = {"schema": 1, "created": "2026-01-01", "environment": {"cpu": "a cpu"}, "config": config, "rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", content)
    return folder


def rows_of(differences: dict[str, list[float]], base: float = 0.5) -> list[dict[str, Any]]:
    """Rows of weights "base" and "new", which differ by the given values, one per seed of each category."""
    return [
        row(weights, category, base + (value if weights == "new" else 0), seed)
        for category, values in differences.items()
        for seed, value in enumerate(values)
        for weights in ("base", "new")
    ]


def even(count: int, values: list[float]) -> dict[str, list[float]]:
    """`count` categories with one seed, whose differences repeat `values`."""
    return {f"c{i}": [values[i % len(values)]] for i in range(count)}
