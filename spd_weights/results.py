"""results.json of `python -m eval`, summed up for cards, the catalog and the Hub's own tables."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.utils._fixes import yaml_dump

_KEYS = ("dataset", "protocol", "method", "metric")


def summarise(results: Mapping[str, Any] | None, weights_sha256: str | None) -> list[dict[str, Any]]:
    """Average over the categories, each the mean over its seeds.

    Args:
        results: The content of results.json; None where nothing was evaluated.
        weights_sha256: Only these weights' rows; None takes all.

    Returns:
        For each (dataset, protocol, method, metric): those four, `value`, `categories`, `seeds` and `reason`. A
        category without a finite value leaves `value` None, and `reason` says why.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in (results or {}).get("rows", []):
        if weights_sha256 is None or row.get("weights_sha256") == weights_sha256:
            groups[tuple(str(row[key]) for key in _KEYS)].append(row)
    return [{**dict(zip(_KEYS, key, strict=True)), **_mean(group)} for key, group in groups.items()]


def model_index(results: Mapping[str, Any] | None, weights_sha256: str | None) -> list[EvalResult]:
    """The measured means as a card's `model-index` metadata."""
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name=f"{entry['protocol']}, {entry['method']}",
            dataset_type=entry["dataset"],
            dataset_name=entry["dataset"],
            dataset_config=f"{entry['protocol']}-{entry['method']}",
            metric_type=entry["metric"],
            metric_name=f"{entry['metric']}, mean of {entry['categories']} categories",
            metric_value=entry["value"],
        )
        for entry in summarise(results, weights_sha256)
        if entry["value"] is not None
    ]


def eval_results(results: Mapping[str, Any] | None, weights_sha256: str | None) -> dict[str, str]:
    """The measured means as the Hub's `.eval_results/<dataset>.yaml`: file stem to content."""
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in summarise(results, weights_sha256):
        if entry["value"] is not None:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", entry["dataset"]).strip("-") or "dataset"
            task = "-".join(entry[key] for key in _KEYS[1:])
            notes = f"mean of {entry['categories']} categories, {entry['seeds']} seeds"
            dataset = {"id": entry["dataset"], "task_id": task}
            entries[stem].append({"dataset": dataset, "value": entry["value"], "notes": notes})
    return {stem: yaml_dump(listed, sort_keys=False) for stem, listed in entries.items()}


def _mean(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, list[float]] = defaultdict(list)
    seeds = set()
    for row in rows:
        value = row["value"]
        if type(value) not in (int, float) or not math.isfinite(value):
            reason = f"{row.get('reason') or 'no reason given'} ({row['category']})"
            return {"value": None, "categories": None, "seeds": None, "reason": reason}
        values[row["category"]].append(value)
        seeds.add(row["seed"])
    mean = statistics.fmean(statistics.fmean(of_category) for of_category in values.values())
    return {"value": mean, "categories": len(values), "seeds": len(seeds), "reason": None}
