"""A step whose loss or gradient is no number, or far from what it was, is not learned from."""

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
