"""Copies between the CPU and the training device during which the CPU does not wait.

An ordinary copy waits until the device has finished everything that it was given before. A GPU would then have no
work while the CPU prepares the next.
"""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to the training device, asynchronously: a GPU reads it from pinned memory."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Reading:
    """Numbers on their way from the training device to the CPU."""

    def __init__(self, numbers: Tensor) -> None:
        """Start the copy.

        Args:
            numbers: (N,), on any device.
        """
        self.copy = numbers.to("cpu", non_blocking=True)  # into pinned memory, if `numbers` is on a GPU
        self.arrived = torch.cuda.Event() if numbers.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def values(self) -> list[float]:
        """Wait for the numbers. Work that the device was given after the copy began is not waited for."""
        if self.arrived:
            self.arrived.synchronize()
        return self.copy.tolist()
