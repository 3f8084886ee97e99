"""Collective operations that do nothing with a single process."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in rank order; gradients flow back to each of them.

    DDP averages gradients over processes. So if each process's loss is the mean over its own samples, the
    gradient is that of the mean over all samples.

    Args:
        tensor: (B, …), of the same shape on every process.

    Returns:
        (processes × B, …).
    """
    return torch.cat(all_gather(tensor)) if processes() > 1 else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """As `gather_with_gradient`, without gradients."""
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def channel_variance(maps: Tensor) -> Tensor:
    """Variance of each channel over the maps of all processes, whose shapes are equal: (B, C, H, W) to
    float32 (C,)."""
    maps = maps.float()
    if processes() == 1:
        return maps.var((0, 2, 3))
    moments = torch.stack([maps.mean((0, 2, 3)), maps.square().mean((0, 2, 3))])
    dist.all_reduce(moments)
    mean, square = moments / processes()
    count = processes() * maps.numel() // maps.shape[1]
    return (square - mean.square()).clamp(min=0) * count / (count - 1)


@torch.no_grad()
def copy_buffers_from_first(module: nn.Module) -> None:
    """Give every process the buffers (batch statistics) of the first."""
    if processes() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def broadcast(value: Any, device: torch.device, source: int = 0) -> Any:
    """Send one process's value to all processes.

    Args:
        value: JSON-ready; ignored on the other processes.
        device: the training device.
        source: rank of the sending process.
    """
    if processes() == 1:
        return value
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    size = torch.tensor(len(content), device=device)
    dist.broadcast(size, source)
    content = content if rank() == source else torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(content, source)
    return json.loads(content.cpu().numpy().tobytes())
