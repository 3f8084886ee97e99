"""Shrinkage of covariances that are estimated from fewer samples than dimensions."""

import torch
from torch import Tensor


def ledoit_wolf(covariance: Tensor, fourth: Tensor, samples: int) -> Tensor:
    """Shrink covariances towards a multiple of the identity (Ledoit and Wolf, 2004, section 3.3).

    Args:
        covariance: With divisor N, float64 [..., D, D].
        fourth: Sum over the samples of the fourth power of their distance to the mean, float64 [...].
        samples: Their number N.

    Returns:
        float64 [..., D, D].
    """
    dims = covariance.shape[-1]
    squares = covariance.square().sum(dim=(-2, -1))
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    spread = squares - dims * scale.square()  # squared distance from the scaled identity
    noise = (fourth / samples - squares) / samples  # expected squared error of the estimate
    shrinkage = torch.where(spread > 0, noise / spread, 1.0).clamp(0, 1)[..., None, None]
    identity = torch.eye(dims, dtype=covariance.dtype, device=covariance.device)
    return (1 - shrinkage) * covariance + shrinkage * scale[..., None, None] * identity
