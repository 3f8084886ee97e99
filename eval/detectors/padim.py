"""PaDiM (Defard et al., arXiv 2011.08785): one Gaussian per patch position over concatenated features."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Detector
from .gaussians import DiagonalGaussian, NestedGaussian
from .maps import anomaly_maps

COVARIANCES = ("full", "ledoit-wolf", "diagonal")
_UPDATE_IMAGES = 32  # images per update of the Gaussians: each update reads and writes all covariances


class Padim(Detector):
    """Streamed PaDiM: memory does not grow with the number of training images.

    A patch x is the concatenation of all layers' features at one position of the finest grid; coarser maps are
    repeated to that grid by nearest neighbour, like unfold and fold in the reference code. Where the grids nest, the
    repetition is never materialised; distances are identical.
    """

    reductions = (4, 8, 16)
    seeded = True
    options = ("padim_dims", "padim_covariance", "map_size")

    def __init__(self, image_size: int, seed: int, dims: int | None = None, covariance: str = "full") -> None:
        """Create an unfitted detector.

        Args:
            image_size: Side of the evaluated image and of the maps, in pixels.
            seed: Seed of the random channel selection.
            dims: Number of channels to keep, at most C. None means the paper's numbers: 550 if there are at least
                1792 channels, otherwise 100.
            covariance: "full" as in the paper; "ledoit-wolf" shrinks each position's covariance by its own amount,
                for few images; "diagonal" treats channels as independent.
        """
        super().__init__()
        self._image_size, self._seed, self._dims = image_size, seed, dims
        self._one_grid = covariance == "ledoit-wolf"  # shrinkage is per position, so positions share nothing
        self._pending: list[list[Tensor]] = []
        self.gaussian = DiagonalGaussian() if covariance == "diagonal" else NestedGaussian(shrunk=self._one_grid)
        self._keep(torch.empty(0, dtype=torch.int64))

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images."""
        if not self._pending and not len(self.channels):
            self._keep(draw_channels(sum(f.shape[1] for f in features), self._dims, self._seed))
        self._pending.append(self._patches(features))
        if sum(len(grids[0]) for grids in self._pending) >= _UPDATE_IMAGES:
            self._update_gaussian()

    def fit(self) -> None:
        """Estimate the mean μ and the covariance Σ of every position."""
        if self._pending:
            self._update_gaussian()
        self.gaussian.fit()

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances of all patches x: sqrt((x − μ)ᵀ Σ⁻¹ (x − μ)).

        The image score is the maximum of the upsampled and smoothed map.
        """
        x = self._patches(features)
        distances = self.gaussian(x).sqrt()  # the Gaussian returns (x − μ)ᵀ Σ⁻¹ (x − μ)
        maps = anomaly_maps(_repeated(distances[:, None], _finest(features))[:, 0], self._image_size)
        return maps.amax(dim=(1, 2)), maps

    def _keep(self, channels: Tensor) -> None:
        self.register_buffer("channels", channels)  # sorted indices of the kept channels
        self._kept = channels.tolist()

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._keep(self.channels)

    def _update_gaussian(self) -> None:
        grids = [torch.cat(parts) for parts in zip(*self._pending, strict=True)]
        self._pending.clear()
        self.gaussian.update(grids)

    def _patches(self, features: list[Tensor]) -> list[Tensor]:
        """The kept channels, [B, H, W, D] per grid, nested grids from the coarsest to the finest."""
        grids: dict[tuple[int, ...], list[Tensor]] = {}
        first, finest = 0, _finest(features)
        for feature in features:
            inside = [channel - first for channel in self._kept if first <= channel < first + feature.shape[1]]
            if inside:
                grids.setdefault(tuple(feature.shape[2:]), []).append(feature[:, inside])
            first += feature.shape[1]
        sizes = sorted(grids)
        steps = [step for pair in pairwise(sizes) for step in zip(*pair, strict=True)]
        nested = not self._one_grid and all(fine % coarse == 0 for coarse, fine in steps)
        if not nested:
            grids = {finest: [_repeated(kept, finest) for size in sizes for kept in grids[size]]}
        return [torch.cat(grids[size], dim=1).permute(0, 2, 3, 1).contiguous() for size in sorted(grids)]


def draw_channels(available: int, dims: int | None, seed: int) -> Tensor:
    """Select channels at random.

    Returns:
        Sorted channel indices, int64 [min(dims, available)], drawn on the CPU so that all devices draw the same.
    """
    if dims is None:
        dims = 550 if available >= 1792 else 100
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:dims].sort().values


def _finest(features: list[Tensor]) -> tuple[int, ...]:
    return max(tuple(feature.shape[2:]) for feature in features)


def _repeated(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps, size=size, mode="nearest")
