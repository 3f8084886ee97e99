"""Shrinkage of covariances that are estimated from fewer samples than dimensions."""

import torch
from torch import Tensor


def ledoit_wolf(covariance: Tensor, fourth: Tensor, samples: int) -> Tensor:
    """Shrink covariances towards a multiple of the identity (Ledoit and Wolf, 2004, section 3.3).

    Args:
        covariance: Estimates with divisor N, float64 [..., D, D].
        fourth: Sum over the samples of the fourth power of their distance to the mean, float64 [...].
        samples: Number of samples N.

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


class FourthMoment:
    """Streamed sum of the fourth powers of the samples' distances to their mean, which is known only at the end."""

    def __init__(self) -> None:
        """Start without samples."""
        self._fourth: Tensor | float = 0.0
        self._third: Tensor | float = 0.0

    def add(self, samples: Tensor) -> None:
        """Add samples from which a constant point near their mean was subtracted, floating [B, P, D]."""
        samples = samples.double()
        squares = samples.square().sum(dim=2)
        self._fourth += squares.square().sum(dim=0)
        self._third += (samples * squares[..., None]).sum(dim=0)

    def about(self, mean: Tensor, scatter: Tensor, count: int) -> Tensor:
        """The sums about the mean, float64 [P].

        With samples y, their mean d, their scatter S about 0 and v = sum |y|² y,
        sum |y - d|⁴ = sum |y|⁴ + 4 d'Sd - 4 v'd + 2 |d|² tr S - 3 n |d|⁴.

        Args:
            mean: d, [P, D].
            scatter: S, [P, D, D].
            count: n.
        """
        mean, length = mean.double(), mean.double().square().sum(dim=1)
        products = (scatter @ mean[..., None].to(scatter.dtype))[..., 0].double()
        trace = scatter.diagonal(dim1=1, dim2=2).sum(dim=1).double()
        moved = 4 * (mean * (products - self._third)).sum(dim=1)
        return self._fourth + moved + 2 * length * trace - 3 * count * length.square()
