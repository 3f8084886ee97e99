"""Where a number was measured: recorded beside every training run and every evaluation."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

_PACKAGES = (
    "spd-weights", "torch", "timm", "huggingface-hub", "safetensors", "numpy",
    "accelerate", "datasets", "scikit-learn", "pillow", "simplejpeg", "segmentation-models-pytorch",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Describe this machine and the installed versions.

    Returns:
        JSON-ready: `python`, `platform`, `cpu`, `cores`, `threads` (torch's), `gpus` (names, one a
        device) and `packages` (name to version, only those installed).
    """
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": packages,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
