"""What a finished run leaves for others: the exported backbone, and training.json, which records how it was made."""

import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spd_weights.checks import TRAINING
from spd_weights.environment import environment
from spd_weights.errors import program
from spd_weights.files import read_json
from spd_weights.release.export import export_backbone

from .config import Config
from .methods.adapt import AdaptMethod
from .recipes import MoCo, recipe_name
from .run import Run
from .run_folder import is_same_run, json_settings

_FINAL = ("loss", "loss_base", "loss_spd", "spd_accuracy", "feature_std", "effective_rank", "images_per_second")
_PATHS = (("data", "train"), ("data", "val"), ("model", "init"), ("probe", "anomaly"), ("probe", "knn_bank"))


def export_run(run: Run) -> Path:
    """Export the run's backbone into the run's folder; returns the export's folder."""
    folder = run.config.out / "export"
    if run.accelerator.is_main_process:
        adapted = isinstance(run.method, AdaptMethod)
        backbone = run.method.exported() if adapted else run.method.backbone
        export_backbone(backbone, folder, training_record(run))
    run.accelerator.wait_for_everyone()
    return folder


def training_record(run: Run) -> dict[str, Any]:
    """The facts of a run, JSON-ready; paths on this machine are reduced to names."""
    config, steps = run.config, run.steps
    name = config.data.name or data_name(config.data.train)
    return {
        "schema": 1,
        "architecture": config.model.arch,
        "method": "moco" if isinstance(config, MoCo) else recipe_name(config),
        "spd_weight": config.spd.weight,
        "init": data_name(config.model.init),
        "image_size": config.data.image_size,
        "mean": list(run.mean),
        "std": list(run.std),
        "in_chans": 3,
        "data": {
            "name": name,
            "revision": getattr(run.images, "revision", None),
            "images": len(run.images),
            "unreadable": len(run.progress["bad"]),
            "licence": None,
        },
        "config": public_settings(config),
        "seed": config.seed,
        "steps": steps,
        "epochs": steps / run.schedule.steps_per_epoch,
        "images_seen": steps * config.optim.batch_size,
        "global_batch_size": config.optim.batch_size,
        "seconds": run.progress["seconds"],
        "processes": run.accelerator.num_processes,
        "environment": environment(),
        **run.progress.get("starting_point", {}),  # absent in runs that began before it was recorded
        "final": {key: run.progress["metrics"].get(key) for key in _FINAL},
        "command": public_command(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def public_settings(config: Config) -> dict[str, Any]:
    """The resolved configuration, JSON-ready; paths on this machine are reduced to names."""
    settings = json_settings(config)
    settings["out"] = config.out.name
    for group, option in _PATHS:
        if value := settings[group][option]:
            settings[group][option] = data_name(value)
    return settings


def finished_export(config: Config) -> Path | None:
    """The export of this run, if it has already finished; None otherwise."""
    record = config.out / "export" / TRAINING
    # The record may be published, so it holds names only; config.json in the run's folder holds the paths as well.
    # With other paths the data may differ, so the run is resumed after its last step, which checks the data.
    same = record.is_file() and read_json(record).get("config") == public_settings(config)
    return config.out / "export" if same and is_same_run(config) else None


def public_command() -> str:
    """The command line, with paths on this machine reduced to names."""
    return f"{program('train')} " + shlex.join(_public(argument) for argument in sys.argv[1:])


def _public(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (data_name(value) if "/" in value else value)


def data_name(source: str) -> str:
    """A name for a data set or weights that reveals nothing about this machine: the last part of a local path."""
    if source.startswith(("hf:", "hf-hub:")) or not ("/" in source or Path(source).exists()):
        return source
    return Path(source.removeprefix("local-dir:")).resolve().name
