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


def save(folder: Path, checkpoint: Checkpoint, keep: int, milestone_every: int | None = None) -> Path:
    """Write a checkpoint, then delete all but the newest `keep` and the milestones.

    A crash at any moment leaves the older ones untouched and this one complete or absent.

    Args:
        folder: the run's checkpoints/.
        checkpoint: what to write.
        keep: at least 1.
        milestone_every: checkpoints at multiples of so many steps stay for good.

    Raises:
        SpdError: it could not be written; the ones from before are still there.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    beside = folder / f".{final.name}.tmp"
    try:
        _write(beside, checkpoint)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        _fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        older = next((path.name for path in _steps(folder)), None)
        there = f"{older} is still there, and the same command goes on from it" if older else "none was there before"
        raise SpdError(f"the checkpoint {final} could not be written: {error}. Make room; {there}.") from error
    for leftover in folder.glob(".step-*"):  # of saves that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    # Any later one was passed over as damaged when the run went on from an earlier one.
    newest = [path for path in _steps(folder) if _number(path) <= checkpoint.step][:keep]
    for path in _steps(folder):
        if path not in newest and (not milestone_every or _number(path) % milestone_every):
            shutil.rmtree(path, ignore_errors=True)
    return final


def _write(beside: Path, checkpoint: Checkpoint) -> None:
    """All of a checkpoint's files, on the disk and not only in its cache."""
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
    """Put a checkpoint's tensors where they were.

    Raises:
        SpdError: they are those of another model.
    """
    try:
        method.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError) as error:
        raise SpdError(
            f"the checkpoint of step {checkpoint.step} holds another model than this command builds; restore "
            f"config.json and checkpoints/ of one run, or name another --out. {error}"
        ) from error


def _steps(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


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
