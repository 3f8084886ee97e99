"""The state of a run between two steps, as `train.setup.begin` builds it and the loop changes it."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .config import Config
from .data.loader import Schedule
from .data.sources import Table


@dataclass
class Run:
    """A run between two steps."""

    config: Config
    accelerator: Accelerator
    images: Table
    schedule: Schedule
    steps: int
    """Number of steps in the whole run."""
    mean: tuple[float, ...]
    """Per-channel mean that the backbone expects images in [0, 1] to be normalised with."""
    std: tuple[float, ...]
    """Per-channel standard deviation, likewise."""
    method: nn.Module
    """The method itself: its state_dict is what gets saved."""
    wrapped: nn.Module
    """The method wrapped by accelerate (DDP, autocast): its forward is what gets called."""
    optimizer: torch.optim.Optimizer
    first_step: int
    """The first step of this process: the number of steps that were completed before it started."""
    progress: dict[str, Any]
    """JSON-ready: training seconds, unreadable images, last metrics, and the guard's and alarm's memory."""
    saved_at: float = 0.0
    """Monotonic time of this process's last checkpoint."""
    save_seconds: float = 0.0
    """Seconds that the last checkpoint took to write."""
