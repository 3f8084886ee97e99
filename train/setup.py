"""Everything that happens before a run's first step: data, model, optimiser, run folder, resume."""

import ctypes
import importlib.util
import sys
import warnings
from datetime import timedelta
from typing import Any

import timm
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from spd_weights.errors import SpdError
from spd_weights.release.start import starting_point

from . import checkpoint
from .backbone import make_backbone
from .config import Config
from .data.loader import make_schedule
from .data.sources import Table, fingerprint, keep_layout, open_shared
from .methods import build_method, check_batch_norm
from .optim import make_optimizer
from .recipes import Supervised
from .run import Run
from .run_folder import flatten, json_settings, layout_file, prepare_folder, refuse_changed_settings
from .views.views import memory_layout

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)
_PROJECT = {"tensorboard": "tensorboard"}  # a folder name for tensorboard, a project name for the others


def begin(config: Config) -> Run:
    """Build a run, or restore it from its newest valid checkpoint.

    Raises:
        SpdError: the data, the weights, the batch size or the run's folder cannot be used.
    """
    accelerator = _make_accelerator(config)
    labelled = isinstance(config, Supervised)
    images = open_shared(config.data.train, labelled, "train", layout_file(config, "train"), accelerator.device)
    classes = len(images.features["label"].names) if "label" in images.features else 0
    schedule = make_schedule(
        images,
        config.optim.batch_size,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        config.optim.accumulate,
    )
    torch.manual_seed(config.seed)  # every process draws the same initial weights
    backbone = make_backbone(config)
    origin = starting_point(config.model.init, backbone, config.data.image_size)
    expected = timm.data.resolve_model_data_config(backbone)
    method = build_method(config, backbone, classes).to(
        accelerator.device, memory_format=memory_layout(accelerator.device)
    )
    check_batch_norm(method, schedule.images_per_process // config.optim.accumulate)
    on_gpu = accelerator.device.type == "cuda"
    if on_gpu:
        configure_gpu(config)
    else:
        keep_freed_memory()
    method = synchronise_batch_norm(method, config, accelerator.device, accelerator.num_processes)
    # torch's fused SGD spoils its momentum in the steps that fp16's GradScaler skips.
    optimizer = make_optimizer(method, config.optim, fused=on_gpu and config.precision != "fp16")

    if accelerator.is_main_process:
        prepare_folder(config)
        keep_layout(images, config.data.train, labelled, "train", layout_file(config, "train"))
    accelerator.wait_for_everyone()
    _start_tracker(config, accelerator)
    first_step, progress = _resume(config, accelerator, images, method, optimizer)
    progress.setdefault("starting_point", origin)
    if config.compile:
        method.compile()  # in place: torch.compile(method) would rename the tensors in its state_dict
    wrapped, optimizer = accelerator.prepare(method, optimizer)
    length = config.optim.steps or config.optim.epochs * schedule.steps_per_epoch
    steps = min(length, config.optim.max_steps or sys.maxsize)
    return Run(
        config, accelerator, images, schedule, steps, expected["mean"], expected["std"],
        method, wrapped, optimizer, first_step, progress,
    )  # fmt: skip


def synchronise_batch_norm(method: nn.Module, config: Config, device: torch.device, processes: int) -> nn.Module:
    """Replace batch norm by SyncBN, whose statistics cover all processes, if the recipe asks for it.

    Only with several GPUs: SyncBN cannot run on a CPU. The conversion is timm's, because torch's drops the activation
    of timm's fused norm layers.
    """
    if config.model.sync_batch_norm and device.type == "cuda" and processes > 1:
        return timm.layers.convert_sync_batchnorm(method)
    return method


def _make_accelerator(config: Config) -> Accelerator:
    # DDP need not broadcast buffers: MoCo's queue changes identically everywhere, and batch statistics are saved and
    # exported from the first process only.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    # The replacement option does not exist before torch 2.13.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise SpdError("--precision fp16 needs a GPU: use bf16 or no")
    # Collectives time out later than the heartbeat, which can say which process was lost.
    timeout = InitProcessGroupKwargs(timeout=timedelta(minutes=2 * config.timeout_minutes))
    return Accelerator(mixed_precision=config.precision, kwargs_handlers=[ddp, timeout], **_tracker_options(config))


def _tracker_options(config: Config) -> dict[str, Any]:
    if config.tracker == "none":
        return {}
    if importlib.util.find_spec(config.tracker) is None:
        raise SpdError(f"--tracker {config.tracker} is not installed: pip install {config.tracker}")
    return {"log_with": config.tracker, "project_dir": str(config.out)}


def _start_tracker(config: Config, accelerator: Accelerator) -> None:
    if config.tracker == "none":
        return
    settings = flatten(json_settings(config))
    settings = {key: v if isinstance(v, (int, float, str)) else str(v) for key, v in settings.items()}
    accelerator.init_trackers(_PROJECT.get(config.tracker, "spd-weights"), config=settings)


def _resume(
    config: Config, accelerator: Accelerator, images: Table, method: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Restore the newest valid checkpoint, if any; returns the steps it had completed and the run's progress."""
    saved = checkpoint.load_newest(config.out / "checkpoints", accelerator.print)
    if saved is None:
        settings = json_settings(config)
        return 0, {"seconds": 0.0, "bad": {}, "data": fingerprint(images), "metrics": {}, "config": settings}
    refuse_changed_settings(config, saved.progress.setdefault("config", json_settings(config)))  # absent in old ones
    if (before := saved.progress["data"]) != fingerprint(images):
        differ = f"{before['images']} images" if before["images"] != len(images) else "the same number, but other names"
        raise SpdError(
            f"{config.data.train} has {len(images)} images, but the run in {config.out} started with {differ}: "
            f"restore the data, or start a new run in another --out"
        )
    checkpoint.restore(saved, method, optimizer)
    if accelerator.scaler is not None and "scaler" in saved.progress:
        accelerator.scaler.load_state_dict(saved.progress["scaler"])
    accelerator.print(f"{config.out}: resuming after step {saved.step}", file=sys.stderr)
    return saved.step, saved.progress


def configure_gpu(config: Config) -> None:
    """Set the precision and the choice of algorithms of this process's GPU work.

    Convolutions use TF32: they take most of the time, and their 10-bit mantissa does not change what is learned.
    Matrix products stay in float32, because contrastive losses compare their results. cuDNN's algorithms are
    deterministic, so that a resumed run is bit-identical.
    """
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = not config.cudnn_benchmark
    torch.backends.cudnn.benchmark = config.cudnn_benchmark


def keep_freed_memory() -> None:
    """Make this process and its children keep freed memory for later tensors.

    By default glibc returns large blocks to the system, which has to clear every page again in the next step.
    Keeping them makes CPU training faster, for a few percent more peak memory. Does nothing with other C
    libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
