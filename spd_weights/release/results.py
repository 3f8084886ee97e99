"""results.json of `python -m eval`, summarised for cards, the catalog and the Hub's own tables."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from spd_weights.errors import SpdError, program
from spd_weights.files import json_text, read_json
from spd_weights.release.differences import KIND, incomplete, own
from spd_weights.release.record import mismatch

_KEYS = ("dataset", "protocol", "method", "metric")
_HEADLINE = ("image_auroc", "image_aupr", "pixel_auroc", "pixel_aupr", "pixel_aupro")  # what papers report
_ROW: dict[str, type] = {
    **dict.fromkeys(("weights", "weights_sha256", *_KEYS, "category", "reason"), str), "seed": float, "value": float,
}  # fmt: skip
_NEEDED = sorted(_ROW.keys() - {"reason"})
_Rows = list[Mapping[str, Any]]


def read(path: Path) -> dict[str, Any]:
    """Read a results.json, and reduce the paths of this machine to names.

    Raises:
        SpdError: It cannot be read, or `python -m eval` did not write it.
    """
    content = read_json(path)
    config = content.get("config") or {}
    problem = mismatch(content, {"rows": [_ROW], "config": dict, "differences": KIND})
    rows = content.get("rows")
    if not problem and (rows is None or not all(row and set(row) >= set(_NEEDED) for row in rows)):
        problem = f"each row needs {', '.join(_NEEDED)}"
    problem = problem or incomplete(content.get("differences") or [])
    if problem:
        raise SpdError(f"{path} is not a results.json of {program('eval')}: {problem}")
    config = dict(config)
    if "data" in config:
        config["data"] = PurePath(str(config["data"])).name
    if isinstance(config.get("weights"), Mapping):
        config["weights"] = {public_name(name): about for name, about in config["weights"].items()}
    return {
        **content,
        "config": config,
        "rows": [{**row, "weights": public_name(str(row["weights"]))} for row in content["rows"]],
    }


def for_weights(results: dict[str, Any], weights_sha256: str) -> dict[str, Any]:
    """Keep what the card of these weights needs: of a study of many weights, only they and their baselines.

    Args:
        results: The content of results.json, as from `read`.
        weights_sha256: These weights.

    Returns:
        The content with the differences of these weights, their rows and those of the baselines. Without such
        differences, everything is kept.
    """
    entries = own(results, weights_sha256)
    if not entries:
        return results
    names = {entry[side] for entry in entries for side in ("weights", "baseline")}
    rows = [row for row in results["rows"] if row["weights"] in names]
    return {**results, "rows": rows, "differences": entries}


def summarise(results: Mapping[str, Any] | None, weights_sha256: str | None) -> list[dict[str, Any]]:
    """Average over categories; each category's value is the mean over its seeds.

    Args:
        results: The content of results.json; None if nothing was evaluated.
        weights_sha256: Take only these weights' rows; None takes all.

    Returns:
        One entry per (dataset, protocol, method, metric): those four, `value`, `spread` (the standard deviation
        over seeds of the mean over categories; None with one seed), `categories`, `seeds` and `reason`. If a
        category lacks a finite value, `value` is None and `reason` says why.
    """
    own, _ = _split(results, weights_sha256)
    return [{**dict(zip(_KEYS, key, strict=True)), **_mean(group)} for key, group in _grouped(own).items()]


def markdown(results: Mapping[str, Any] | None, weights_sha256: str | None) -> str:
    """The measured means as a Markdown table: these weights first, other evaluated weights beside them.

    Args:
        results: The content of results.json; None if nothing was evaluated.
        weights_sha256: These weights; None treats every row as theirs.

    Returns:
        Markdown. Another weight's mean is shown only if it covers the same categories and seeds.
    """
    own, others = _split(results, weights_sha256)
    if not own:
        return "Not measured."
    columns: dict[str, _Rows] = defaultdict(list)
    for row in others:
        columns[public_name(str(row["weights"]))].append(row)
    beside = [_grouped(rows) for rows in columns.values()]
    head = ["data", "protocol", "method", "metric", "these weights", *columns, "categories", "seeds"]
    lines = [
        "Mean over categories of the mean over seeds; ± is the standard deviation over seeds, if there are several. "
        "`results.json` has every single result.",
        "",
        f"| {' | '.join(head)} |",
        "| --- | --- | --- | --- |" + " ---: |" * (len(columns) + 3),
    ]
    for key, group in _grouped(own).items():
        mean = _mean(group)
        cells = [*key, f"not measured: {mean['reason']}", *[""] * (len(columns) + 2)]
        if mean["value"] is not None:
            same = [rows.get(key, []) if _cells(rows.get(key, [])) == _cells(group) else [] for rows in beside]
            values = [_value(mean), *(_value(_mean(rows)) if rows else "–" for rows in same)]
            cells = [*key, *values, str(mean["categories"]), str(mean["seeds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def public_name(weights: str) -> str:
    """Reduce a local folder to its name (an export to its run's name); keep any other name."""
    if weights.startswith("hf-hub:") or "/" not in weights:
        return weights.removeprefix("local-dir:")
    path = PurePath(weights.removeprefix("local-dir:"))
    return (path.parent if path.name == "export" else path).name


def model_index(results: Mapping[str, Any] | None, weights_sha256: str | None) -> list[EvalResult]:
    """The headline means as a card's `model-index` metadata; the card's table has all of them."""
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
        if entry["value"] is not None and entry["metric"] in _HEADLINE
    ]


def eval_results(
    results: Mapping[str, Any] | None, weights_sha256: str | None, datasets: Mapping[str, str]
) -> dict[str, str]:
    """The headline means as the Hub's `.eval_results/<dataset>.yaml`: file stem to content.

    Args:
        results: The content of results.json; None if nothing was evaluated.
        weights_sha256: Take only these weights' rows; None takes all.
        datasets: Dataset name in results.json to its id on the Hub. The Hub accepts only ids that exist there, so
            results on other datasets are left out.
    """
    entries: dict[str, list[EvalResultEntry]] = defaultdict(list)
    for entry in summarise(results, weights_sha256):
        if entry["value"] is None or entry["metric"] not in _HEADLINE or entry["dataset"] not in datasets:
            continue
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", entry["dataset"]).strip("-") or "dataset"
        spread = "" if entry["spread"] is None else f", standard deviation over seeds {entry['spread']:.4f}"
        entries[stem].append(
            EvalResultEntry(
                dataset_id=datasets[entry["dataset"]],
                task_id="-".join(entry[key] for key in _KEYS[1:]),
                value=entry["value"],
                notes=f"mean of {entry['categories']} categories, {entry['seeds']} seeds{spread}",
            )
        )
    # JSON is YAML, too.
    return {stem: json_text(eval_result_entries_to_yaml(listed)) for stem, listed in entries.items()}


def _split(results: Mapping[str, Any] | None, weights_sha256: str | None) -> tuple[_Rows, _Rows]:
    """Split the rows into those of these weights and those of others."""
    own: _Rows = []
    others: _Rows = []
    for row in (results or {}).get("rows", []):
        (own if weights_sha256 in (None, row.get("weights_sha256")) else others).append(row)
    return own, others


def _grouped(rows: _Rows) -> dict[tuple[str, ...], _Rows]:
    groups: dict[tuple[str, ...], _Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(str(row[key]) for key in _KEYS)].append(row)
    return groups


def _cells(rows: _Rows) -> set[tuple[Any, Any]]:
    return {(row["category"], row["seed"]) for row in rows}


def _mean(rows: _Rows) -> dict[str, Any]:
    values: dict[str, dict[Any, float]] = defaultdict(dict)
    for row in rows:
        value = row["value"]
        if type(value) not in (int, float) or not math.isfinite(value):
            reason = f"{row.get('reason') or 'no reason given'} ({row['category']})"
            return {"value": None, "spread": None, "categories": None, "seeds": None, "reason": reason}
        values[row["category"]][row["seed"]] = value
    seeds = set().union(*values.values())
    shared = [seed for seed in seeds if all(seed in of_category for of_category in values.values())]
    means = [statistics.fmean(of_category[seed] for of_category in values.values()) for seed in shared]
    return {
        "value": statistics.fmean(statistics.fmean(of_category.values()) for of_category in values.values()),
        "spread": statistics.stdev(means) if len(means) > 1 else None,
        "categories": len(values),
        "seeds": len(seeds),
        "reason": None,
    }


def _value(mean: Mapping[str, Any]) -> str:
    if mean["value"] is None:
        return "–"
    return f"{mean['value']:.4f}" + (f" ± {mean['spread']:.4f}" if mean["spread"] is not None else "")
