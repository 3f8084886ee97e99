"""Collectives that losses need: no-ops in a single process."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the processes' tensors in rank order; gradients flow back to each.

    DDP averages gradients over processes, so a loss that is a mean over its process's own samples gets
    the gradient of the mean over all.

    Args:
        tensor: (B, …), of the same shape on every process.

    Returns:
        (processes × B, …).
    """
    return torch.cat(all_gather(tensor)) if processes() > 1 else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """The same without gradients."""
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def channel_variance(maps: Tensor) -> Tensor:
    """The variance of each channel over all processes' maps, of equal shapes: (B, C, H, W) to (C,)."""
    if processes() == 1:
        return maps.var((0, 2, 3))
    maps = maps.float()
    moments = torch.stack([maps.mean((0, 2, 3)), maps.square().mean((0, 2, 3))])
    dist.all_reduce(moments)
    mean, square = moments / processes()
    count = processes() * maps.numel() // maps.shape[1]
    return (square - mean.square()).clamp(min=0) * count / (count - 1)


def share(value: Any, device: torch.device, source: int = 0) -> Any:
    """One process's value, JSON-ready, on every process.

    Args:
        value: looked at on that process only.
        device: where the processes' tensors live.
        source: its rank.
    """
    if processes() == 1:
        return value
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    size = torch.tensor(len(content), device=device)
    dist.broadcast(size, source)
    content = content if rank() == source else torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(content, source)
    return json.loads(bytes(content.tolist()))
