"""Detectors that score whole images by globally averaged features and have no maps."""

import torch
from torch import Tensor

from .base import Detector
from .shrinkage import ledoit_wolf

NEIGHBOURS = 2


class Gaussian(Detector):
    """Mahalanobis distance to a Gaussian of pooled features (Rippel et al., arXiv 2005.14140).

    Features are the deepest stage's global averages. Their covariance is shrunk after Ledoit and Wolf (2004), because
    there are more dimensions than training images.
    """

    reductions = (32,)
    seeded = False

    def __init__(self) -> None:
        """Create an unfitted detector."""
        super().__init__()
        self._features: list[Tensor] = []
        self.register_buffer("mean", torch.empty(0))  # float64 [D]
        self.register_buffer("factor", torch.empty(0))  # Cholesky factor of the covariance, float64 [D, D]

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images; the last feature map is used."""
        self._features.append(pooled(features))

    def fit(self) -> None:
        """Estimate mean and covariance, and factorise the covariance, in float64."""
        data = torch.cat(self._features).double()
        self._features.clear()
        self.mean = data.mean(dim=0)
        centred = data - self.mean
        fourth = centred.square().sum(dim=1).square().sum()
        covariance = ledoit_wolf(centred.T @ centred / len(data), fourth, len(data))
        # With identical images the covariance is zero. This ridge, far below float32's precision, makes it invertible.
        ridge = torch.finfo(torch.float32).eps * max(float(self.mean.square().mean()), 1e-12)
        self.factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), device=data.device))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, None]:
        """Mahalanobis distances (not squared), float32 [B], and no maps."""
        centred = pooled(features).double() - self.mean
        return torch.linalg.solve_triangular(self.factor, centred.T, upper=False).norm(dim=0).float(), None


class NearestNeighbours(Detector):
    """Mean Euclidean distance to the two nearest training images (DN2; Bergman et al., arXiv 2002.10445).

    Features are the deepest stage's global averages. Two neighbours is that paper's choice; it found little effect.
    """

    reductions = (32,)
    seeded = False

    def __init__(self) -> None:
        """Create an unfitted detector."""
        super().__init__()
        self._features: list[Tensor] = []
        self.register_buffer("bank", torch.empty(0))  # float32 [N, D]

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images; the last feature map is used."""
        self._features.append(pooled(features))

    def fit(self) -> None:
        """Keep the features."""
        self.bank = torch.cat(self._features)
        self._features.clear()

    def forward(self, features: list[Tensor]) -> tuple[Tensor, None]:
        """Mean distances, float32 [B], and no maps."""
        # No matrix products: their rounding errors are large compared with small distances, and there are few points.
        distances = torch.cdist(pooled(features), self.bank, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(min(NEIGHBOURS, len(self.bank)), largest=False).values.mean(dim=1), None


def pooled(features: list[Tensor]) -> Tensor:
    """Global average of the last feature map, float32 [B, C]."""
    return features[-1].mean(dim=(2, 3))
