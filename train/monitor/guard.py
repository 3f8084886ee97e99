"""Protection against steps that blow up, which are skipped, and against collapsed embeddings, which end a run."""

import math
from typing import Any

import torch
from torch import nn

MAXIMUM_FACTOR = 10.0  # times the usual loss: noise stays far below it; a divergence passes it within a few steps
_MAXIMUM_IN_A_ROW = 10
_COLLAPSED_STEPS = 100
_IGNORED_QUEUES = 4
_MEMORY = 0.99  # decay of the running mean that is the usual loss


class LossGuard:
    """Decides whether a step's gradients are used, and when the run has diverged.

    A skipped step leaves the optimiser and all parameters and buffers untouched: MoCo's key encoder and queue only
    change after accepted steps, and batch statistics are restored. The decision is deterministic and its memory is
    part of the run's progress, so a resumed run decides identically. All thresholds are our choice.
    """

    def __init__(self, method: nn.Module, progress: dict[str, Any], maximum_factor: float = MAXIMUM_FACTOR) -> None:
        """Continue from the run's progress.

        Args:
            method: its buffers are saved before each step.
            progress: JSON-ready; the key "guard" is read and updated.
            maximum_factor: times the usual loss, above which a step is rejected.
        """
        self.maximum_factor = maximum_factor
        self.state = progress.setdefault("guard", {"usual": None, "skipped": 0, "in_a_row": 0})
        self.buffers = list(method.buffers())
        self.saved = [buffer.clone() for buffer in self.buffers]
        self.accepted = True

    @property
    def diverged(self) -> bool:
        """Whether so many steps in a row were skipped that the run should end."""
        return self.state["in_a_row"] >= _MAXIMUM_IN_A_ROW

    def before_step(self) -> None:
        """Save the buffers."""
        if self.buffers:
            torch._foreach_copy_(self.saved, self.buffers)

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Judge a step; if it is rejected, restore the buffers.

        Args:
            loss: the step's loss, the same on every process.
            gradient_norm: norm of its gradient, the same on every process.

        Returns:
            False if either is not finite, or the loss is more than maximum_factor times max(1, the usual one).
        """
        usual, size = self.state["usual"], abs(loss)
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        self.accepted = finite and (usual is None or size <= self.maximum_factor * max(1.0, usual))
        if self.accepted:
            self.state["usual"] = size if usual is None else _MEMORY * usual + (1 - _MEMORY) * size
            self.state["in_a_row"] = 0
        else:
            self.state["skipped"] += 1
            self.state["in_a_row"] += 1
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.saved)
        return self.accepted


class CollapseAlarm:
    """Notices that the embeddings of a self-supervised run have collapsed, which the loss alone does not show.

    SimSiam's loss is lowest if all images look alike. A run counts as collapsed if, at every logged step for at
    least 100 steps, `feature_std` is below 0.1 or `effective_rank` is below 3 (lower for batches under 17, which
    have few directions). Our choice: SimSiam without its stop-gradient falls below 2.5 and stays there, while
    healthy SimSiam and SimCLR runs on photographs stayed above 8. MoCo's rank is low until its queue has been
    filled a few times (2.0 to 2.9 up to the third time, with 1,024 keys and batches of 64; 5 to 7 later), so the
    first four fillings are ignored. The alarm's memory is part of the run's progress.
    """

    def __init__(self, batch: int, steps_per_queue: int, progress: dict[str, Any]) -> None:
        """Continue from the run's progress.

        Args:
            batch: number of embeddings that the rank is measured over.
            steps_per_queue: steps that fill MoCo's queue, which holds random keys at first; 0 for other methods.
            progress: JSON-ready; the key "collapsed_since" is read and updated.
        """
        self.minimum_rank = min(3.0, 1 + (batch - 1) / 8)
        self.first_step = _IGNORED_QUEUES * steps_per_queue
        self.progress, self.triggered = progress, False

    def check(self, metrics: dict[str, Any]) -> None:
        """Update `triggered` from a logged step's `feature_std` and `effective_rank`."""
        low = metrics["feature_std"] < 0.1 or metrics["effective_rank"] < self.minimum_rank
        step, since = metrics["step"], self.progress.get("collapsed_since")
        since = (step if since is None else since) if low and step >= self.first_step else None
        self.progress["collapsed_since"] = since
        self.triggered = since is not None and step - since >= _COLLAPSED_STEPS
