"""Checkpoints that are complete or absent: safetensors and JSON, written beside, digested, renamed."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.files import sha256

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Checkpoint:
    """A run at a step boundary."""

    step: int
    """Steps done."""
    model: dict[str, Tensor]
    """The method's state_dict."""
    optimizer: dict[str, Any]
    """The optimiser's state_dict."""
    progress: dict[str, Any]
    """JSON-ready: whatever else the run goes on from."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`.

    A crash at any moment leaves the older ones untouched and this one complete or absent.

    Args:
        folder: the run's checkpoints/.
        checkpoint: what to write.
        keep: at least 1.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    beside = folder / f".{final.name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors, rest = _split_tensors(checkpoint.optimizer)
    save_file({name: t.contiguous() for name, t in checkpoint.model.items()}, beside / _MODEL)
    save_file(tensors, beside / _OPTIMIZER)
    state = {
        "step": checkpoint.step,
        "sha256": {name: sha256(beside / name) for name in (_MODEL, _OPTIMIZER)},
        "optimizer": rest,
        "progress": checkpoint.progress,
    }
    (beside / _STATE).write_text(json.dumps(state))
    for path in (*beside.iterdir(), beside):
        _fsync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(beside, final)
    _fsync(folder)
    for old in _steps(folder)[keep:]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path, warn: Any = print) -> Checkpoint | None:
    """Read the newest checkpoint whose files are what they were when written.

    Args:
        folder: the run's checkpoints/.
        warn: called with a message for each checkpoint that has to be passed over.

    Returns:
        None where there is none.
    """
    for path in _steps(folder):
        try:
            state = json.loads((path / _STATE).read_text())
            for name, expected in state["sha256"].items():
                if (found := sha256(path / name)) != expected:
                    raise ValueError(f"{name} has sha256 {found[:12]}…, {expected[:12]}… was written")
            optimizer = _join_tensors(load_file(path / _OPTIMIZER), state["optimizer"])
            return Checkpoint(state["step"], load_file(path / _MODEL), optimizer, state["progress"])
        except (SpdError, SafetensorError, OSError, ValueError, KeyError) as error:
            warn(f"{path} is damaged and passed over: {error}")
    return None


def restore(checkpoint: Checkpoint, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors where they were."""
    method.load_state_dict(checkpoint.model)
    optimizer.load_state_dict(checkpoint.optimizer)


def _steps(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _split_tensors(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as named tensors, and JSON for the rest."""
    tensors, values = {}, {}
    for parameter, entries in state["state"].items():
        for name, value in entries.items():
            target = tensors if isinstance(value, Tensor) else values
            target[f"{parameter}.{name}"] = value.contiguous() if isinstance(value, Tensor) else value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def _join_tensors(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["values"]}.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
