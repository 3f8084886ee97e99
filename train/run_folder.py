"""A run's folder: config.json, and whether a command may resume what the folder holds."""

import json
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json

from . import checkpoint
from .config import Config
from .recipes import to_json

_CONFIG = "config.json"
RESUMABLE_CHANGES = {
    "out",
    "resume",
    "compile",
    "cudnn_benchmark",
    "log_every",
    "max_hours",
    "timeout_minutes",
    "on_collapse",
    "checkpoint",
    "probe",
    "tracker",
    "data.name",
    "data.train",  # its contents must be the same, see `fingerprint`
    "data.val",
    "data.workers",
    "optim.max_steps",
}
"""Settings, or groups of them, that a resumed run may change because they do not change what it computes."""


def prepare_folder(config: Config) -> None:
    """Create the run's folder and write config.json, or check that the folder holds the same run.

    Raises:
        SpdError: the folder holds a different run, or `--resume never` was given and it holds one at all.
    """
    path = config.out / _CONFIG
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        before = _previous_settings(config)
        if before is None:
            write_json(path, to_json(config))
            return
    except OSError as error:
        raise SpdError(f"--out {config.out} cannot be written: {error.strerror}") from error
    if config.resume == "never":
        raise SpdError(f"--resume never, but {config.out} holds a run: choose another --out or delete that folder")
    refuse_changed_settings(config, before)
    if not path.exists():
        write_json(path, to_json(config))


def _previous_settings(config: Config) -> dict[str, Any] | None:
    """Settings of the run in the folder, if any: from config.json or, if that was deleted, from a checkpoint."""
    if (path := config.out / _CONFIG).exists():
        return read_json(path)
    saved = checkpoint.load_newest(config.out / "checkpoints", print)
    return saved and saved.progress.get("config", json_settings(config))


def refuse_changed_settings(config: Config, before: dict[str, Any]) -> None:
    """Raise SpdError if settings outside RESUMABLE_CHANGES differ from those that the run started with."""
    if changed := _changed(before, config):
        raise SpdError(
            f"{config.out} holds a run with other settings ({'; '.join(changed)}): choose another --out, or repeat "
            f"that run's settings to resume it"
        )


def is_same_run(config: Config) -> bool:
    """Whether the folder's config.json has the same data source, and the same settings outside RESUMABLE_CHANGES."""
    before = read_json(config.out / _CONFIG)
    return not _changed(before, config) and before["data"]["train"] == config.data.train


def _changed(settings: dict[str, Any], config: Config) -> list[str]:
    before, now = flatten(settings), flatten(json_settings(config))
    return [
        f"--{key.replace('_', '-')} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not {key, key.split(".")[0]} & RESUMABLE_CHANGES
    ]


def json_settings(config: Config) -> dict[str, Any]:
    """The configuration exactly as it reads back from config.json (tuples are lists there)."""
    return json.loads(json.dumps(to_json(config)))


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with keys such as `optim.lr`."""
    flat = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def layout_file(config: Config, name: str) -> Path:
    """Where the run keeps a listing: train, val or knn_bank, after --data.train, --data.val or --probe.knn-bank."""
    return config.out / f"listing.{name}.json"
