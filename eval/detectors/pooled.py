"""Detectors of whole images on pooled features, without maps: a learned and a pre-defined metric."""

import torch
from torch import Tensor

from .shrinkage import ledoit_wolf

NEIGHBOURS = 2


class Gaussian:
    """Mahalanobis distance to a Gaussian of pooled features (Rippel et al., arXiv 2005.14140).

    The covariance is shrunk after Ledoit and Wolf (2004), because a feature has more dimensions than there
    are training images. The features are the deepest stage's, globally averaged, as for `NearestNeighbours`.
    """

    def __init__(self) -> None:
        """Make an empty detector."""
        self._features: list[Tensor] = []
        self._mean: Tensor  # [D]
        self._factor: Tensor  # [D, D], the Cholesky factor of the covariance

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images: one feature map, float32 [B, C, H, W]."""
        self._features.append(pooled(features))

    def fit(self) -> None:
        """Estimate mean and covariance and factorise the covariance, in float64."""
        data = torch.cat(self._features).double()
        self._mean = data.mean(dim=0)
        centred = data - self._mean
        fourth = centred.square().sum(dim=1).square().sum()
        covariance = ledoit_wolf(centred.T @ centred / len(data), fourth, len(data))
        # Identical images leave nothing to learn from; a ridge far below float32's precision keeps it defined.
        ridge = torch.finfo(torch.float32).eps * max(float(self._mean.square().mean()), 1e-12)
        self._factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), device=data.device))

    def score(self, features: list[Tensor]) -> tuple[Tensor, None]:
        """Mahalanobis distances (not squared), float32 [B], and no maps."""
        centred = pooled(features).double() - self._mean
        return torch.linalg.solve_triangular(self._factor, centred.T, upper=False).norm(dim=0).float(), None

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        return {"mean": self._mean, "factor": self._factor}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._mean, self._factor = state["mean"], state["factor"]


class NearestNeighbours:
    """Mean Euclidean distance to the two nearest training images (DN2; Bergman et al., arXiv 2002.10445).

    Two is the number of that paper, which found the result hardly to depend on it.
    """

    def __init__(self) -> None:
        """Make an empty detector."""
        self._features: list[Tensor] = []
        self._bank: Tensor  # [N, D]

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images: one feature map, float32 [B, C, H, W]."""
        self._features.append(pooled(features))

    def fit(self) -> None:
        """Keep the features."""
        self._bank = torch.cat(self._features)

    def score(self, features: list[Tensor]) -> tuple[Tensor, None]:
        """Mean distances, float32 [B], and no maps."""
        # Not by matrix products, whose rounding is large beside small distances; these are few.
        distances = torch.cdist(pooled(features), self._bank, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(min(NEIGHBOURS, len(self._bank)), largest=False).values.mean(dim=1), None

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        return {"bank": self._bank}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._bank = state["bank"]


def pooled(features: list[Tensor]) -> Tensor:
    """Global average of the last feature map, float32 [B, C]."""
    return features[-1].mean(dim=(2, 3))
