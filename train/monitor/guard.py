"""What a run must not go on from: steps that blow up are not learned from, embeddings that collapse end it."""

import math
from typing import Any

import torch
from torch import nn

_FACTOR = 10.0  # times the usual loss: noise stays far below, a blow-up passes it within a step or two
_IN_A_ROW = 10
_COLLAPSED_STEPS, _QUEUES = 100, 4
_MEMORY = 0.99  # of the running mean that "usual" is


class LossGuard:
    """Decides whether a step's gradients are used, and when there is no point in going on.

    A skipped step leaves parameters and optimiser untouched and puts buffers (batch statistics, MoCo's
    queue) back to what they were. Deterministic, and its memory lies in the run's progress, so that a
    resumed run decides alike. All thresholds are our choice.
    """

    def __init__(self, method: nn.Module, progress: dict[str, Any]) -> None:
        """Take up where the run left off.

        Args:
            method: whose buffers are looked after.
            progress: JSON-ready; the key "guard" is used and kept up to date.
        """
        self.state = progress.setdefault("guard", {"usual": None, "skipped": 0, "in_a_row": 0})
        self.buffers = list(method.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]

    @property
    def hopeless(self) -> bool:
        """So many steps in a row were skipped that more of them would not help."""
        return self.state["in_a_row"] >= _IN_A_ROW

    def before_step(self) -> None:
        """Remember the buffers."""
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Judge a step by its loss and its gradient's norm, which have to be the same on every process."""
        usual, size = self.state["usual"], abs(loss)
        sound = math.isfinite(loss) and math.isfinite(gradient_norm)
        if sound and (usual is None or size <= _FACTOR * max(1.0, usual)):
            self.state["usual"] = size if usual is None else _MEMORY * usual + (1 - _MEMORY) * size
            self.state["in_a_row"] = 0
            return True
        self.state["skipped"] += 1
        self.state["in_a_row"] += 1
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.kept)
        return False


class CollapseAlarm:
    """Notes when the embeddings of a self-supervised run have collapsed, which the loss alone does not show.

    SimSiam's loss is at its best where all images look alike. Collapsed is: a `feature_std` below 0.1, or
    an `effective_rank` below 3 (less for batches under 17, which have few directions at all), at every
    logged step for 100 steps or more. Our choice: a SimSiam without its stop-gradient falls below 2.5 and
    stays there. Healthy SimSiam and SimCLR runs on photographs stayed above 8. MoCo's rank is low until its
    queue has been filled some times over (2.0 to 2.9 until the third time, with 1,024 keys and batches of 64;
    5 to 7 later), so the first four times do not count. Its memory lies in the run's progress.
    """

    def __init__(self, batch: int, steps_a_queue: int, progress: dict[str, Any]) -> None:
        """Take up where the run left off.

        Args:
            batch: embeddings that the rank is measured over.
            steps_a_queue: how many steps fill MoCo's queue, which holds random keys at first; 0 for other methods.
            progress: JSON-ready; the key "collapsed_since" is used and kept up to date.
        """
        self.least_rank, self.begin = min(3.0, 1 + (batch - 1) / 8), _QUEUES * steps_a_queue
        self.progress, self.sounding = progress, False

    def check(self, metrics: dict[str, Any]) -> None:
        """Look at a logged step's `feature_std` and `effective_rank`; sets `sounding`."""
        low = metrics["feature_std"] < 0.1 or metrics["effective_rank"] < self.least_rank
        step, since = metrics["step"], self.progress.get("collapsed_since")
        since = (step if since is None else since) if low and step >= self.begin else None
        self.progress["collapsed_since"] = since
        self.sounding = since is not None and step - since >= _COLLAPSED_STEPS
