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


class FourthMoment:
    """Sum of the fourth powers of the samples' distances to their mean, streamed: Ledoit-Wolf's noise.

    When the mean moves by d, with y the samples less the old mean, S their scatter and v = sum |y|² y,
    sum |y - d|⁴ = sum |y|⁴ + 4 d'Sd - 4 v'd + 2 |d|² tr S + n |d|⁴, as sum y = 0; v moves likewise.
    """

    def __init__(self, positions: int, dims: int, device: torch.device) -> None:
        """Begin without samples."""
        self.value = torch.zeros(positions, dtype=torch.float64, device=device)  # [P]
        self._third = torch.zeros(positions, dims, 1, dtype=torch.float64, device=device)  # v

    def merge(self, scatter: Tensor, shift: Tensor, count: int, new: Tensor) -> None:
        """Move the mean of `count` samples by `shift` [P, D, 1]; `new` [P, D, B] are less the old mean."""
        product = (scatter @ shift).double()
        shift = shift.double()
        trace = scatter.diagonal(dim1=1, dim2=2).sum(dim=1).double()
        length = shift.square().sum(dim=(1, 2))
        self.value += 4 * (shift * (product - self._third)).sum(dim=(1, 2)) + 2 * length * trace + count * length**2
        self._third -= 2 * product + shift * (trace + count * length)[:, None, None]
        moved = new.double() - shift
        squares = moved.square().sum(dim=1, keepdim=True)  # [P, 1, B]
        self.value += squares.square().sum(dim=(1, 2))
        self._third += (moved * squares).sum(dim=2, keepdim=True)
