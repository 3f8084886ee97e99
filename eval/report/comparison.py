"""`python -m eval compare`: differences between weights as text, and compare.json."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spd_weights.files import read_json, write_json

from ..metrics.compare import CONFIDENCE, DRAWS, Comparison
from ..metrics.means import distinct

SCHEMA = 1
FILE = "compare.json"


def write_comparison(folder: Path, baseline: str, comparisons: Sequence[Comparison]) -> Path:
    """Write `folder`/compare.json.

    Args:
        folder: The --out of an evaluation.
        baseline: Full name of the weights that the others are compared with.
        comparisons: Against `baseline`.
    """
    content = {"schema": SCHEMA, "baseline": baseline, "confidence": CONFIDENCE, "draws": DRAWS}
    write_json(folder / FILE, {**content, "comparisons": [asdict(c) for c in comparisons]})
    return folder / FILE


def chosen_baseline(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The baseline of the last `python -m eval compare` if it is still among the rows, otherwise the first weights."""
    known = distinct(row["weights"] for row in rows)
    path = folder / FILE
    chosen = read_json(path).get("baseline") if path.is_file() else None
    return chosen if chosen in known else (known or [""])[0]


def comparison_texts(comparison: Comparison) -> tuple[str, str, str, str]:
    """Difference, interval, verdict, and the number of categories (and of pairs, where there are several seeds)."""
    c = comparison
    count = str(c.categories) if c.pairs == c.categories else f"{c.categories} ({c.pairs} pairs)"
    if c.difference is None:
        return "–", "–", c.verdict, count
    interval = "–" if c.low is None or c.high is None else f"{100 * c.low:+.1f} to {100 * c.high:+.1f}"
    return f"{100 * c.difference:+.1f}", interval, c.verdict, count


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know about intervals and undecided verdicts."""
    notes = [f"undecided: {reason}" for reason in distinct(c.reason for c in comparisons if c.reason)]
    if any(c.low is not None for c in comparisons):
        notes.append(
            "interval: bootstrap over categories and, within each, its seeds; metrics are tested separately, "
            "so about one in 20 looks decided without a true difference"
        )
    return notes
