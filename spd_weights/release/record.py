"""training.json, the record of a run, as a release reads it: an export may come from anyone."""

import math
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError, shown
from spd_weights.files import read_json

Kind = Any
"""str, float (any finite number) or dict; [kind] for a list; {name: kind} for an object, which may hold more.

The name "*" stands for every name. Null, but not in a list, is of every kind: it means "not recorded".
"""

_HEALTH = [{"stage": str, "rms": float, "cosine": float}]
_RECORD: Kind = {
    "architecture": str, "method": str, "spd_weight": float, "init": str, "start": {"*": str}, "image_size": float,
    "mean": [float], "std": [float], "in_chans": float,
    "data": {"name": str, "images": float, "licence": str}, "config": dict, "seed": float, "steps": float,
    "epochs": float, "images_seen": float, "global_batch_size": float, "seconds": float, "processes": float,
    "environment": {"cpu": str, "gpus": [str], "packages": {"*": str}}, "final": {"*": float}, "command": str,
    "created": str, "licence": str, "health": _HEALTH, "start_health": _HEALTH,
}  # fmt: skip
_NAMES = {str: "a text in one line", float: "a finite number", dict: "an object"}


def read_record(path: Path) -> dict[str, Any]:
    """Read a training record.

    Raises:
        SpdError: It cannot be read, or a fact that cards or catalog rows show is of another kind than runs record.
    """
    record = read_json(path)
    if problem := mismatch(record, _RECORD):
        raise SpdError(f"{path} is not the record of a run: {problem}; export the run again, or correct it")
    return record


def mismatch(value: Any, kind: Kind, where: str = "") -> str | None:
    """Describe the first part of a JSON value that is not of a kind; None if all parts are."""
    if value is None:
        return None
    if isinstance(kind, list):
        if not isinstance(value, list) or None in value:
            return f"{where} is not a list of facts"
        parts = [(f"{where}[{i}]", part, kind[0]) for i, part in enumerate(value)]
    elif isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where} is not an object"
        names = value if "*" in kind else kind.keys() & value.keys()
        parts = [(f"{where}.{shown(name)}".lstrip("."), value[name], kind.get(name, kind.get("*"))) for name in names]
    else:
        return None if _is_of(value, kind) else f"{where} is {shown(repr(value))}, not {_NAMES[kind]}"
    return next((problem for name, part, of in sorted(parts, key=str) if (problem := mismatch(part, of, name))), None)


def _is_of(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    return isinstance(value, kind) and (not isinstance(value, str) or value.isprintable())
