"""Checkpoints that are either complete or absent: written to a temporary folder, hashed, then renamed."""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.files import sha256

from .run import Run

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Checkpoint:
    """A run at a step boundary."""

    step: int
    """Steps completed."""
    model: dict[str, Tensor]
    """The method's state_dict."""
    optimizer: dict[str, Any]
    """The optimiser's state_dict."""
    progress: dict[str, Any]
    """JSON-ready: everything else that the run resumes from."""


def save(folder: Path, checkpoint: Checkpoint, keep: int, milestone_every: int | None = None) -> Path:
    """Write a checkpoint, then delete all others except the newest `keep` and the milestones.

    After a crash at any moment, older checkpoints are untouched and this one is complete or absent.

    Args:
        folder: the run's checkpoints/.
        checkpoint: the state to write.
        keep: at least 1.
        milestone_every: checkpoints at multiples of this many steps are never deleted.

    Raises:
        SpdError: it could not be written; older checkpoints still exist.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        _write(temporary, checkpoint)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        _fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        older = next((path.name for path in _steps(folder)), None)
        advice = f"run the same command again to resume from {older}" if older else "no older checkpoint exists"
        raise SpdError(f"the checkpoint {final} could not be written: {error}. Free some space; {advice}.") from error
    for leftover in folder.glob(".step-*"):  # from saves that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    # Checkpoints of later steps are damaged: the run ignored them when it resumed from an earlier one.
    newest = [path for path in _steps(folder) if _number(path) <= checkpoint.step][:keep]
    for path in _steps(folder):
        if path not in newest and (not milestone_every or _number(path) % milestone_every):
            shutil.rmtree(path, ignore_errors=True)
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all files of a checkpoint and flush them to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors, rest = _split_tensors(checkpoint.optimizer)
    save_file({name: t.contiguous() for name, t in checkpoint.model.items()}, folder / _MODEL)
    save_file(tensors, folder / _OPTIMIZER)
    state = {
        "step": checkpoint.step,
        "sha256": {name: sha256(folder / name) for name in (_MODEL, _OPTIMIZER)},
        "optimizer": rest,
        "progress": checkpoint.progress,
    }
    (folder / _STATE).write_text(json.dumps(state))
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def checkpoint_due(run: Run, done: int, save_is_cheap: bool) -> bool:
    """Whether to save after `done` steps: at the end, as --checkpoint asks, and after epochs if saving is cheap."""
    asked, epochs = run.config.checkpoint, done / run.schedule.steps_per_epoch
    return (
        done == run.steps
        or (asked.every is not None and done % asked.every == 0)
        or (asked.milestone_epochs is not None and epochs % asked.milestone_epochs == 0)
        or (save_is_cheap and epochs.is_integer())
    )


def save_run(run: Run, done: int) -> None:
    """Save a checkpoint from the first process; call it on every process.

    Raises:
        SpdError: it could not be written; raised on all processes.
    """
    failure, started = "", time.monotonic()
    if run.accelerator.scaler is not None:
        run.progress["scaler"] = run.accelerator.scaler.state_dict()
    if run.accelerator.is_main_process:
        state = Checkpoint(done, run.method.state_dict(), run.optimizer.state_dict(), run.progress)
        kept, milestones = run.config.checkpoint.keep, run.config.checkpoint.milestone_epochs
        milestone_steps = milestones and milestones * run.schedule.steps_per_epoch
        try:
            save(run.config.out / "checkpoints", state, kept, milestone_steps)
        except SpdError as error:
            failure = str(error)
        run.saved_at = time.monotonic()
        run.save_seconds = run.saved_at - started
    failed = torch.tensor(float(bool(failure)), device=run.accelerator.device)
    if run.accelerator.reduce(failed, "sum").item():
        raise SpdError(failure or "the first process could not save a checkpoint")


def load_newest(folder: Path, warn: Any = print) -> Checkpoint | None:
    """Read the newest checkpoint whose files still have the hashes that were recorded when it was written.

    Args:
        folder: the run's checkpoints/.
        warn: called with a message for each damaged checkpoint.

    Returns:
        None if there is no valid checkpoint.
    """
    for path in _steps(folder):
        try:
            state = json.loads((path / _STATE).read_text())
            for name, expected in state["sha256"].items():
                if (found := sha256(path / name)) != expected:
                    raise ValueError(f"{name} has sha256 {found[:12]}…, expected {expected[:12]}…")
            optimizer = _join_tensors(load_file(path / _OPTIMIZER), state["optimizer"])
            return Checkpoint(state["step"], load_file(path / _MODEL), optimizer, state["progress"])
        except (SpdError, SafetensorError, OSError, ValueError, KeyError) as error:
            warn(f"ignoring the damaged checkpoint {path}: {error}")
    return None


def restore(checkpoint: Checkpoint, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint's tensors into the method and the optimiser.

    Raises:
        SpdError: they belong to a different model.
    """
    try:
        method.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
        _match_strides(optimizer)
    except (RuntimeError, ValueError) as error:
        raise SpdError(
            f"the checkpoint of step {checkpoint.step} holds a different model than this command builds: restore "
            f"config.json and checkpoints/ from the same run, or choose another --out. {error}"
        ) from error


def _match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give momenta the strides of their parameters, as fused optimisers require: files hold them contiguous."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _steps(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _split_tensors(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state_dict into named tensors, for safetensors, and the rest, for JSON."""
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
