"""Gaussians of patch features, one a position, learned from a stream of images."""

import torch
from torch import Tensor

from eval.shrinkage import FourthMoment, ledoit_wolf

RIDGE = 0.01  # added to the diagonal of every covariance (PaDiM's epsilon)
_FIT_CHUNK_BYTES = 2**26


class ConditionalGaussians:
    """For each position of a grid, the Gaussian of its features given those of coarser grids there.

    Means and scatters are merged batch by batch (Chan et al.), which stays exact in float32 for features far
    from zero; only covariances of the grid's own D features with all C that its positions see are kept.

    Attributes:
        mean: [P, 1, C], features of coarser grids first.
        whitening: After `fit`, [P, D, C]: takes a centred sample to independent, standardised residuals.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, own: int, precise: bool, shrunk: bool) -> None:
        """Begin without samples.

        Args:
            own: Features of this grid; those a position sees beyond are of coarser grids.
            precise: Whether to learn in float64, as grids must that others build on: features of a large
                scale against the small ridge exceed float32's range of condition numbers.
            shrunk: Whether to shrink the covariances (Ledoit and Wolf); for a grid without coarser ones.
        """
        self._own = own
        self._dtype = torch.float64 if precise else torch.float32
        self._shrunk = shrunk
        self._fourth: FourthMoment | None = None
        self._count = 0

    def merge(self, samples: Tensor) -> None:
        """Take in samples, float32 [B, P, C]."""
        samples = samples.transpose(0, 1).to(self._dtype)
        positions, new, channels = samples.shape
        if self._count == 0:
            self.mean = samples.new_zeros(positions, 1, channels)
            self.whitening = samples.new_zeros(positions, self._own, channels)  # until fit(), the scatter
            self._fourth = FourthMoment(positions, channels, samples.device) if self._shrunk else None
        total = self._count + new
        mean = samples.mean(dim=1, keepdim=True)
        shift = mean - self.mean
        if self._fourth:
            self._fourth.merge(self.whitening, shift.mT * (new / total), self._count, (samples - self.mean).mT)
        # One more sample makes the correction between the two means part of the same product.
        centred = torch.cat([samples - mean, shift * (self._count * new / total) ** 0.5], dim=1)
        self.whitening.baddbmm_(centred[..., channels - self._own :].mT, centred)
        self.mean += shift * (new / total)
        self._count = total

    def fit(self, coarser: list[tuple["ConditionalGaussians", Tensor]]) -> None:
        """Factorise the covariances (divisor N - 1) plus 0.01 I; the ridge carries fewer samples than features.

        Args:
            coarser: The fitted Gaussians of each coarser grid, the coarsest first, and which of its positions
                each one here lies in, int64 [P].
        """
        channels = self.whitening.shape[2]
        gathered = sum(level.whitening[0].numel() for level, _ in coarser) + 4 * self._own * channels
        rows = max(1, _FIT_CHUNK_BYTES // (8 * gathered))
        for first in range(0, len(self.whitening), rows):
            chunk = slice(first, first + rows)
            covariance = self._covariance(chunk)
            given, own = covariance.split([channels - self._own, self._own], dim=2)
            prediction = torch.zeros_like(given)
            own.diagonal(dim1=1, dim2=2).add_(RIDGE)
            for level, position in coarser:
                whitening = level.whitening[position[chunk]]
                seen = whitening.shape[2]
                shared = given[..., :seen] @ whitening.mT
                prediction[..., :seen] += shared @ whitening
                own -= shared @ shared.mT
            identity = torch.eye(self._own, dtype=own.dtype, device=own.device).expand_as(own)
            residual = torch.cat([-prediction, identity], dim=2)
            factor = torch.linalg.cholesky(own)
            self.whitening[chunk] = torch.linalg.solve_triangular(factor, residual, upper=False)
        self._fourth = None

    def squares(self, samples: Tensor) -> Tensor:
        """Squared Mahalanobis distances of the own features given the coarser, [B, P], for samples [B, P, C]."""
        centred = samples.transpose(0, 1) - self.mean
        return (centred @ self.whitening.mT).square().sum(dim=2).T

    def settle(self) -> None:
        """To float32, in which samples are scored, when no finer grid is to be fitted any more."""
        self.mean, self.whitening = self.mean.float(), self.whitening.float()

    def _covariance(self, chunk: slice) -> Tensor:
        """float64 [n, D, C]."""
        scatter = self.whitening[chunk].double()
        if self._fourth:
            return ledoit_wolf(scatter / self._count, self._fourth.value[chunk], self._count)
        return scatter / max(1, self._count - 1)


class IndependentGaussians:
    """For each position, a Gaussian a feature: what `ConditionalGaussians` are with all correlations zero.

    Attributes:
        mean: float32 [P, 1, C].
        whitening: After `fit`, the inverse standard deviations, float32 [P, 1, C].
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        """Begin without samples."""
        self._count = 0

    def merge(self, samples: Tensor) -> None:
        """Take in samples, float32 [B, P, C]."""
        mean = samples.mean(dim=0)[:, None]
        if self._count == 0:
            self.mean, self.whitening = torch.zeros_like(mean), torch.zeros_like(mean)  # until fit(), the scatter
        total = self._count + len(samples)
        shift = mean - self.mean
        self.whitening += (samples - mean.transpose(0, 1)).square().sum(dim=0)[:, None]
        self.whitening += shift.square() * (self._count * len(samples) / total)
        self.mean += shift * (len(samples) / total)
        self._count = total

    def fit(self) -> None:
        """Turn the variances (divisor N - 1) plus 0.01 into what `squares` needs."""
        self.whitening.div_(max(1, self._count - 1)).add_(RIDGE).rsqrt_()

    def squares(self, samples: Tensor) -> Tensor:
        """Squared Mahalanobis distances, [B, P], for samples [B, P, C]."""
        return ((samples - self.mean[:, 0]) * self.whitening[:, 0]).square().sum(dim=2)
