"""What all processes have to know after a step, in one small reduction, so that they decide identically."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.loader import Batch
from ..data.transfer import Reading, to_device
from ..run import Run
from .stopping import StopRequest, verdict

_SAVE_INTERVAL = 100
"""Minimum interval between end-of-epoch checkpoints, as a multiple of the time one save takes."""


class Agreed(NamedTuple):
    """What all processes know after a step's backward pass."""

    loss: float
    """Mean over processes."""
    gradient_norm: float
    """Global L2 norm of the gradient; 0 with fp16."""
    stopping: tuple[str, int] | None
    """Why some process was asked to stop, and the exit code; None if none was."""
    save_is_cheap: bool
    """A checkpoint now would take less than 1 % of the time since the last one."""
    bad: bool
    """Some process met an image that it could not read."""


@torch.no_grad()
def agree(run: Run, loss: Tensor, batch: Batch, stop: StopRequest) -> Callable[[], Agreed]:
    """Start to combine loss, gradient norm and votes of all processes; call it on every process.

    Args:
        run: the run; gradients are those of its method.
        loss: this process's mean loss, a scalar.
        batch: this process's share of the step.
        stop: the stop requests that this process received.

    Returns:
        A function that waits for the result. What the device is given before that call keeps it busy during the wait.
    """
    accelerator = run.accelerator
    gradients = [p.grad for p in run.method.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).float()
    if accelerator.scaler is not None:  # fp16: GradScaler already handles overflowing gradients
        norm = torch.zeros_like(norm)
    # False on processes that never save: there, save_seconds is 0.
    save_is_expensive = time.monotonic() - run.saved_at < _SAVE_INTERVAL * run.save_seconds
    votes = torch.tensor([*stop.votes(), float(save_is_expensive), float(bool(batch.bad))])
    own = torch.cat([loss.detach().float()[None], norm[None], to_device(votes, loss.device)])
    reading = Reading(accelerator.reduce(own, "mean"))

    def wait() -> Agreed:
        loss_mean, gradient_norm, *stop_votes, expensive, bad = reading.values()
        return Agreed(loss_mean, gradient_norm, verdict(stop_votes), not expensive, bool(bad))

    return wait
