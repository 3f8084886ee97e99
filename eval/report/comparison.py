"""`python -m eval compare`: differences between weights as text, and compare.json."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spd_weights.files import read_json, write_json

from ..metrics.compare import CONFIDENCE, Comparison, compare
from ..metrics.means import distinct
from ..metrics.metrics import TITLES

SCHEMA = 2
FILE = "compare.json"


def add_groups(parser: argparse.ArgumentParser) -> None:
    """Add the option --group."""
    parser.add_argument(
        "--group",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="count all categories that match a pattern as one, because they are not independent, such as boards of "
        "one data set; a pattern matches NAME or DATASET/NAME and may contain * and ?",
    )


def write_comparison(folder: Path, baseline: str, groups: Sequence[str], comparisons: Sequence[Comparison]) -> Path:
    """Write `folder`/compare.json.

    Args:
        folder: The --out of an evaluation.
        baseline: Full name of the weights that the others are compared with.
        groups: Patterns of categories that count as one.
        comparisons: Against `baseline`.
    """
    content = {"schema": SCHEMA, "baseline": baseline, "groups": list(groups), "confidence": CONFIDENCE}
    write_json(folder / FILE, {**content, "comparisons": [asdict(c) for c in comparisons]})
    return folder / FILE


def last_comparison(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Repeat the last `python -m eval compare`, or compare with the first weights if its baseline is not there."""
    known = distinct(row["weights"] for row in rows)
    last = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    baseline = last.get("baseline")
    return compare(rows, baseline if baseline in known else (known or [""])[0], last.get("groups", ()))


def comparison_texts(comparison: Comparison) -> tuple[str, str, str, str]:
    """Difference with its spread over seeds, interval, verdict, and the numbers of categories, groups and pairs."""
    c = comparison
    details = [f"{c.units} independent"] if c.units != c.categories else []
    details += [f"{c.pairs} pairs"] if c.pairs != c.categories else []
    count = f"{c.categories} ({', '.join(details)})" if details else str(c.categories)
    if c.difference is None:
        return "–", "–", c.verdict, count
    spread = "" if c.spread is None else f" ±{100 * c.spread:.1f}"
    interval = "–" if c.low is None or c.high is None else f"{100 * c.low:+.1f} to {100 * c.high:+.1f}"
    return f"{100 * c.difference:+.1f}{spread}", interval, c.verdict, count


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know about intervals, spreads and undecided verdicts."""
    notes = [f"undecided: {reason}" for reason in distinct(c.reason for c in comparisons if c.reason)]
    if any(c.low is not None for c in comparisons):
        notes.append(
            "interval: over categories, for these weights; other training runs are not covered. Metrics are tested "
            "separately, so about one in 20 looks decided without a true difference"
        )
    if any(c.spread is not None for c in comparisons):
        notes.append("±: standard deviation of the difference over the seeds")
    within = [TITLES[c.metric] for c in comparisons if c.spread and abs(c.difference or 0) <= c.spread]
    if within:
        notes.append(f"within the spread over seeds: {', '.join(distinct(within))}")
    if any(c.pairs == c.categories > 0 for c in comparisons):
        notes.append("one seed: the randomness of the method, if it has any, is not covered")
    return notes
