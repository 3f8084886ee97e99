"""What a run must not go on from: steps that blow up are not learned from, embeddings that collapse end it."""

import math
from typing import Any

import torch
from torch import nn

_FACTOR = 10.0  # times the usual loss: noise stays far below, a blow-up passes it within a step or two
_IN_A_ROW = 10
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
    an `effective_rank` below 3 (less for batches under 17, which have few directions at all), for 10
    logged steps in a row. Our choice: a SimSiam without its stop-gradient falls below 2.5 and stays there.
    Healthy SimSiam and SimCLR runs on photographs stayed above 8; MoCo's rank is low while its queue still
    holds random keys (2.1 to 2.9 for 8 logged steps of 10, then rising to 4). Its memory lies in the run's
    progress.
    """

    def __init__(self, batch: int, progress: dict[str, Any]) -> None:
        """Take up where the run left off.

        Args:
            batch: embeddings that the rank is measured over.
            progress: JSON-ready; the key "collapsed_in_a_row" is used and kept up to date.
        """
        self.least_rank = min(3.0, 1 + (batch - 1) / 8)
        self.progress = progress

    @property
    def sounding(self) -> bool:
        """The embeddings have collapsed."""
        return self.progress.get("collapsed_in_a_row", 0) >= _IN_A_ROW

    def check(self, metrics: dict[str, Any]) -> None:
        """Look at a logged step's `feature_std` and `effective_rank`."""
        low = metrics["feature_std"] < 0.1 or metrics["effective_rank"] < self.least_rank
        self.progress["collapsed_in_a_row"] = self.progress.get("collapsed_in_a_row", 0) + 1 if low else 0
