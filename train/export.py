"""What a finished run leaves for others: the export, and training.json that says how it came about."""

import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spd_weights.checks import TRAINING
from spd_weights.environment import environment
from spd_weights.files import read_json
from spd_weights.release.export import export_backbone

from .config import Config
from .methods.adapt import AdaptMethod
from .recipes import recipe_name, to_json
from .setup import Run, changed_settings

_FINAL = ("loss", "loss_base", "loss_spd", "spd_accuracy", "feature_std", "effective_rank", "images_per_second")


def export_run(run: Run) -> Path:
    """Write the run's backbone as an export into the run's folder; returns the export's folder."""
    folder = run.config.out / "export"
    if run.accelerator.is_main_process:
        adapted = isinstance(run.method, AdaptMethod)
        backbone = run.method.exported() if adapted else run.method.backbone
        export_backbone(backbone, folder, training_record(run))
    run.accelerator.wait_for_everyone()
    return folder


def training_record(run: Run) -> dict[str, Any]:
    """The facts of a run, JSON-ready; paths of this machine are reduced to names."""
    config, steps = run.config, run.steps
    name = data_name(config.data.train)
    return {
        "schema": 1,
        "architecture": config.model.arch,
        "method": recipe_name(config),
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
        "final": {
            key: run.progress["metrics"].get(key)
            for key in (
                "loss",
                "loss_base",
                "loss_spd",
                "spd_accuracy",
                "feature_std",
                "effective_rank",
                "images_per_second",
            )
        },
        "command": public_command(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def public_settings(config: Config) -> dict[str, Any]:
    """The resolved configuration, JSON-ready; paths of this machine are reduced to names."""
    settings = to_json(config)
    settings["out"] = config.out.name
    for group, option in (("data", "train"), ("data", "val"), ("model", "init"), ("probe", "anomaly")):
        if value := settings[group][option]:
            settings[group][option] = data_name(value)
    return json.loads(json.dumps(settings))


def finished_export(config: Config) -> Path | None:
    """The export of this very run, if it has come to its end before."""
    record = config.out / "export" / TRAINING
    # The record may be published, so it holds names; the run's own config.json holds the paths, too.
    same = record.is_file() and read_json(record).get("config") == public_settings(config)
    return config.out / "export" if same and not changed_settings(config) else None


def public_command() -> str:
    """What was typed, with the paths of this machine reduced to names."""
    return "python -m train " + shlex.join(_public(argument) for argument in sys.argv[1:])


def _public(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (data_name(value) if "/" in value else value)


def data_name(source: str) -> str:
    """A name for a dataset or weights that says nothing about this machine: the last part of a local path."""
    if source.startswith(("hf:", "hf-hub:")) or not ("/" in source or Path(source).exists()):
        return source
    return Path(source.removeprefix("local-dir:")).resolve().name
