"""Everything a run needs before its first step: data, model, optimiser, and where it left off."""

import dataclasses
import importlib.util
import json
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

import spd_weights  # noqa: F401  (registers its names with timm, so that --model.init can be one)
from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json

from . import checkpoint
from .config import Config
from .data.loader import Schedule, make_schedule
from .data.shards import Layout, Shards
from .data.sources import Table, keep_layout, open_images
from .distributed import share
from .memory import keep_freed_memory
from .methods import build_method, check_batch_norm
from .optim import make_optimizer
from .recipes import Supervised, to_json
from .views.views import memory_layout

_CONFIG = "config.json"
_PROJECT = {"tensorboard": "tensorboard"}  # which is a folder's name there, and a project's elsewhere
# What may change between the first launch and a resumed one without changing what the run computes.
_FREE = {
    "out",
    "resume",
    "compile",
    "log_every",
    "max_hours",
    "timeout_minutes",
    "on_collapse",
    "checkpoint",
    "data.workers",
    "optim.max_steps",
}


@dataclass
class Run:
    """A run between two steps."""

    config: Config
    accelerator: Accelerator
    images: Table
    schedule: Schedule
    steps: int
    """Steps of the whole run."""
    mean: tuple[float, ...]
    """Normalisation that the backbone expects, for images in [0, 1]."""
    std: tuple[float, ...]
    method: nn.Module
    """The method as built: what is saved."""
    wrapped: nn.Module
    """The method as accelerate wraps it: what is called."""
    optimizer: torch.optim.Optimizer
    start: int
    """Steps done before this process began."""
    progress: dict[str, Any]
    """JSON-ready: training seconds, unreadable images, last metrics."""
    saved_at: float = 0.0
    """When this process last saved, by the monotonic clock."""
    save_seconds: float = 0.0
    """How long that took."""


def begin(config: Config) -> Run:
    """Build a run, or rebuild it as its newest valid checkpoint left it.

    Raises:
        SpdError: data, weights, batch size or the run's folder are not usable.
    """
    # Every process computes its own buffers alike (queue, batch statistics): none has to be sent at each step.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    # Its successor says less, and torch before 2.13 does not have it.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # Collectives wait longer than the heartbeat does, which can name who is lost.
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=2 * config.timeout_minutes))
    accelerator = Accelerator(mixed_precision=config.precision, kwargs_handlers=[ddp, patience], **_tracking(config))
    images = open_run_images(config, accelerator, "train", labelled=isinstance(config, Supervised))
    classes = len(images.features["label"].names) if "label" in images.features else 0
    schedule = make_schedule(
        images,
        config.optim.batch_size,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        config.optim.accumulate,
    )
    torch.manual_seed(config.seed)  # decides the initial weights, alike on every process
    backbone = make_backbone(config)
    expected = timm.data.resolve_model_data_config(backbone)
    method = build_method(config, backbone, classes).to(
        accelerator.device, memory_format=memory_layout(accelerator.device)
    )
    check_batch_norm(method, schedule.share // config.optim.accumulate)
    on_gpu = accelerator.device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    if on_gpu and accelerator.num_processes > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # it cannot run on a CPU
    optimizer = make_optimizer(method, config.optim, fused=on_gpu)

    if accelerator.is_main_process:
        prepare_folder(config)
        labelled = isinstance(config, Supervised)
        keep_layout(images, config.data.train, labelled, "train", _layout_file(config, "train"))
    accelerator.wait_for_everyone()
    if config.tracker != "none":
        settings = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in _flat(_as_read(config)).items()}
        accelerator.init_trackers(_PROJECT.get(config.tracker, "spd-weights"), config=settings)
    start, progress = _resume(config, accelerator, len(images), method, optimizer)
    if config.compile:
        method.compile()  # in place, so that the names of its tensors stay what they are
    wrapped, optimizer = accelerator.prepare(method, optimizer)
    steps = min(config.optim.epochs * schedule.steps_per_epoch, config.optim.max_steps or sys.maxsize)
    return Run(
        config, accelerator, images, schedule, steps, expected["mean"], expected["std"],
        method, wrapped, optimizer, start, progress,
    )  # fmt: skip


def _resume(
    config: Config, accelerator: Accelerator, images: int, method: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Put things back to where the newest valid checkpoint has them; steps done, and the run's progress."""
    saved = checkpoint.load_newest(config.out / "checkpoints", accelerator.print)
    if saved is None:
        return 0, {"seconds": 0.0, "bad": {}, "images": images, "metrics": {}, "config": _as_read(config)}
    _refuse_others(config, saved.progress.setdefault("config", _as_read(config)))  # older checkpoints have none
    if saved.progress["images"] != images:
        raise SpdError(
            f"{config.data.train} has {images} images, {saved.progress['images']} when the run in "
            f"{config.out} began: restore the data, or start over with another --out"
        )
    checkpoint.restore(saved, method, optimizer)
    if accelerator.scaler is not None and "scaler" in saved.progress:
        accelerator.scaler.load_state_dict(saved.progress["scaler"])
    accelerator.print(f"{config.out}: going on after step {saved.step}", file=sys.stderr)
    return saved.step, saved.progress


def _tracking(config: Config) -> dict[str, Any]:
    """What accelerate has to know of a tracker.

    Raises:
        SpdError: it is not installed.
    """
    if config.tracker == "none":
        return {}
    if importlib.util.find_spec(config.tracker) is None:
        raise SpdError(f"--tracker {config.tracker} is not installed: pip install {config.tracker}")
    return {"log_with": config.tracker, "project_dir": str(config.out)}


def open_run_images(config: Config, accelerator: Accelerator, split: str, labelled: bool) -> Table:
    """Open `--data.train` or `--data.val`; shards are listed by the first process alone, and once a run.

    Raises:
        SpdError: as `open_images`, on every process.
    """
    source, kept = getattr(config.data, split), _layout_file(config, split)
    if accelerator.num_processes == 1:
        return open_images(source, labelled, split, kept)
    found: dict[str, Any] = {}
    if accelerator.is_main_process:
        try:
            images = open_images(source, labelled, split, kept)
            found = {"layout": dataclasses.asdict(images.layout) if isinstance(images, Shards) else None}
        except SpdError as error:
            found = {"error": str(error)}
    found = share(found, accelerator.device)
    if "error" in found:
        raise SpdError(found["error"])
    if accelerator.is_main_process:
        return images
    return Shards(Layout(**found["layout"])) if found["layout"] else open_images(source, labelled, split)


def _layout_file(config: Config, split: str) -> Path:
    return config.out / f"shards.{split}.json"


def make_backbone(config: Config) -> nn.Module:
    """The backbone without a classifier: (B, 3, S, S) to pooled features (B, F).

    Raises:
        SpdError: timm does not know the architecture, it cannot recompute activations, or the starting weights
            do not exist or do not fit.
    """
    backbone = _initialised(config)
    if config.model.checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError):  # how timm's models say so
            raise SpdError(f"--model.checkpointing: {config.model.arch} cannot recompute its activations") from None
    return backbone


def _initialised(config: Config) -> nn.Module:
    arch, init = config.model.arch, config.model.init
    if not timm.is_model(arch):
        close = ", ".join(timm.list_models(f"*{arch.split('_')[0]}*")[:8]) or "see timm.list_models()"
        raise SpdError(f"--model.arch {arch}: timm {timm.__version__} has no such model; did you mean: {close}")
    options: dict[str, Any] = {"num_classes": 0}
    if timm.get_pretrained_cfg(arch).fixed_input_size:
        options["img_size"] = config.data.image_size
    try:
        if init in ("none", "timm"):
            return timm.create_model(arch, pretrained=init == "timm", **options)
        backbone = timm.create_model(arch, pretrained=False, **options)
        backbone.load_state_dict(timm.create_model(init, pretrained=True, **options).state_dict())
        return backbone
    except SpdError:
        raise
    except Exception as error:  # timm, huggingface_hub and safetensors each raise kinds of their own
        raise SpdError(f"--model.arch {arch} --model.init {init}: {error}") from error


def prepare_folder(config: Config) -> None:
    """Make the run's folder and write config.json, or check that the folder holds the same run.

    Raises:
        SpdError: the folder holds another run, or one that `--resume never` must not touch.
    """
    path = config.out / _CONFIG
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        before = _settings_before(config)
        if before is None:
            write_json(path, to_json(config))
            return
    except OSError as error:
        raise SpdError(f"--out {config.out} cannot be written: {error.strerror}") from error
    if config.resume == "never":
        raise SpdError(f"--resume never, but {config.out} holds a run: name another --out, or remove that one")
    _refuse_others(config, before)
    if not path.exists():
        write_json(path, to_json(config))


def _settings_before(config: Config) -> dict[str, Any] | None:
    """Of the run that the folder holds, if any: by config.json, and where that was deleted, by the checkpoints."""
    if (path := config.out / _CONFIG).exists():
        return read_json(path)
    saved = checkpoint.load_newest(config.out / "checkpoints", print)
    return saved and saved.progress.get("config", _as_read(config))


def _refuse_others(config: Config, before: dict[str, Any]) -> None:
    if changed := _changed(before, config):
        raise SpdError(f"{config.out} holds a run with other settings ({'; '.join(changed)}): name another --out")


def changed_settings(config: Config) -> list[str]:
    """How the settings differ from those that the run in `config.out` began with, but for what may change."""
    return _changed(read_json(config.out / _CONFIG), config)


def _changed(settings: dict[str, Any], config: Config) -> list[str]:
    before, now = _flat(settings), _flat(_as_read(config))
    return [
        f"--{key.replace('_', '-')} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key.split(".")[0] not in _FREE and key not in _FREE
    ]


def _as_read(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(to_json(config)))  # tuples become lists


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
