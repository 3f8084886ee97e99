"""Gaussians of patch features, one per position of the finest of several nested grids, learned from a stream.

Features of one grid are [B, H, W, D]. Features of all grids are a list of these, from the coarsest to the finest grid;
the sides of each grid are multiples of those of the grids before it. A position of the finest grid has the features of
all grid cells that contain it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import LearnedBuffers
from .shrinkage import FourthMoment, ledoit_wolf

RIDGE = 0.01  # added to the diagonal of every covariance (PaDiM's epsilon)
_FLOAT32_RANGE = 1000  # maximum variance / ridge at which distances agree with float64's to about 1e-5


class NestedGaussian(LearnedBuffers):
    """One Gaussian with full covariance Σ = L Lᵀ per position of the finest grid; shared parts are stored once.

    Positions inside one coarse cell share the features of that cell. Features are ordered from the coarsest grid to the
    finest, so these positions also share the leading blocks of L. L is therefore stored by blocks. The block
    (fine, coarse) takes D_fine x D_coarse numbers per position of the fine grid; a whole L would take C x C per finest
    position. The blocks of the G fine positions in one coarse position are stacked, [P_coarse, G * D_fine, D_coarse],
    so that products with them are few and large.
    """

    def __init__(self, shrunk: bool = False) -> None:
        """Start without samples; `shrunk` (one grid only) applies Ledoit-Wolf shrinkage to the covariances."""
        super().__init__()
        self._shrunk = shrunk
        self._fourth: FourthMoment | None = None
        self._count = 0
        self._shifts: list[Tensor] = []  # per grid: sum of the samples minus the first batch's mean
        self.register_buffer("mean_0", torch.empty(0))  # mean_<grid>, [1, H, W, D]; until fit(): of the first batch
        self.register_buffer("block_0_0", torch.empty(0))  # block_<fine>_<coarse>: of the scatter; after fit(): of L⁻¹

    @property
    def means(self) -> list[Tensor]:
        """Means of each grid's features, [1, H, W, D]."""
        return [self.get_buffer(f"mean_{i}") for i in range(sum(name.startswith("mean") for name in self._buffers))]

    @property
    def blocks(self) -> list[list[Tensor]]:
        """Blocks by fine grid and coarse grid; after `fit`, those of L⁻¹."""
        return [[self.get_buffer(f"block_{i}_{j}") for j in range(i + 1)] for i in range(len(self.means))]

    def update(self, grids: Sequence[Tensor]) -> None:
        """Add a batch, float32.

        Sums are of differences to the first batch's mean, which keeps float32 accurate far from zero.
        """
        if self._count == 0:
            self._allocate(grids)
        centred = [grid - mean for grid, mean in zip(grids, self.means, strict=True)]
        self._count += len(grids[0])
        for shift, samples in zip(self._shifts, centred, strict=True):
            shift += samples.sum(dim=0, keepdim=True)
        self._add_products(centred)
        if self._fourth:
            self._fourth.add(centred[0].flatten(1, 2))

    def fit(self) -> None:
        """Turn scatters into inverse Cholesky factors of the covariances (divisor N - 1) plus 0.01 I.

        The ridge makes covariances of fewer samples than features invertible. One row of the coarsest grid at a
        time, because covariances dominate the memory.
        """
        means, blocks = self.means, self.blocks
        shifts = [shift / self._count for shift in self._shifts]
        if self._fourth:
            fourth = self._fourth.about(shifts[0].flatten(1, 2)[0], blocks[0][0], self._count)
        self._add_products(shifts, -self._count)
        for mean, shift in zip(means, shifts, strict=True):
            mean += shift
        dtype = self._precision()
        rows = means[0].shape[1]
        for row in range(rows):
            parts = [[block.chunk(rows)[row] for block in of_grid] for of_grid in blocks]
            if self._fourth:
                covariance = ledoit_wolf(parts[0][0].double() / self._count, fourth.chunk(rows)[row], self._count)
                parts[0][0].copy_(covariance * max(1, self._count - 1))
            sizes = [(mean.shape[1] // rows, mean.shape[2]) for mean in means]
            _invert_cholesky(parts, sizes, max(1, self._count - 1), dtype)
        self._fourth = None

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """The quadratic form (x − μ)ᵀ Σ⁻¹ (x − μ) = ‖L⁻¹ (x − μ)‖².

        Args:
            x: float32 features of all grids.

        Returns:
            Squared Mahalanobis distances, float32 [B, H, W] of the finest grid.
        """
        total: Tensor | None = None
        whitened: list[Tensor] = []  # L⁻¹ (x − μ), grid by grid
        for grid, mean, blocks in zip(x, self.means, self.blocks, strict=True):
            size = grid.shape[1:3]
            own = _group_cells(grid - mean, size) @ blocks[-1].mT
            for coarse, block in zip(whitened, blocks[:-1], strict=True):
                product = _group_cells(coarse, coarse.shape[1:3]) @ block.mT
                own += _group_cells(_cells_of(product, coarse.shape[1:3], size), size)
            square = own.square().sum(dim=2).T.reshape(-1, 1, *size)
            total = square if total is None else square + F.interpolate(total, size=size, mode="nearest")
            whitened.append(_cells_of(own, size, size))
        return total[:, 0]

    def _allocate(self, grids: Sequence[Tensor]) -> None:
        for i, fine in enumerate(grids):
            self.register_buffer(f"mean_{i}", fine.mean(dim=0, keepdim=True))
            for j, coarse in enumerate(grids[: i + 1]):
                positions = coarse.shape[1] * coarse.shape[2]
                shape = (positions, fine[0].numel() // positions, coarse.shape[3])
                self.register_buffer(f"block_{i}_{j}", fine.new_zeros(shape))
        self._shifts = [torch.zeros_like(mean) for mean in self.means]
        if self._shrunk:
            self._fourth = FourthMoment()

    def _add_products(self, samples: Sequence[Tensor], weight: float = 1.0) -> None:
        for fine, blocks in zip(samples, self.blocks, strict=True):
            for coarse, block in zip(samples, blocks, strict=False):
                size = coarse.shape[1:3]
                block.baddbmm_(_group_cells(fine, size).mT, _group_cells(coarse, size), alpha=weight)

    def _precision(self) -> torch.dtype:
        """float64 if the largest variance is so far above the ridge that float32 cannot invert Σ, otherwise float32."""
        scatter = max(float(blocks[-1].diagonal(dim1=1, dim2=2).max()) for blocks in self.blocks)
        return torch.float32 if scatter <= _FLOAT32_RANGE * RIDGE * self._count else torch.float64


def _invert_cholesky(
    parts: list[list[Tensor]], sizes: Sequence[tuple[int, int]], divisor: int, dtype: torch.dtype
) -> None:
    """Replace scatters by the inverse Cholesky factors of their covariances, block by block.

    Args:
        parts: Blocks by fine and coarse grid, of the positions in one row of the coarsest grid; changed in place.
        sizes: Height and width of that part of each grid.
        divisor: Of the scatters.
        dtype: In which to compute.
    """
    inverses: list[Tensor] = []  # of each grid's diagonal block
    factors: list[list[Tensor]] = []  # of each grid, its blocks with coarser ones, [P, D, D_coarse]
    for blocks, size in zip(parts, sizes, strict=True):
        own = blocks[-1].to(dtype, copy=True).div_(divisor)
        own.diagonal(dim1=1, dim2=2).add_(RIDGE)
        left: list[Tensor] = []
        for index, (block, coarse) in enumerate(zip(blocks[:-1], sizes, strict=False)):
            rest = block.to(dtype, copy=True).div_(divisor)
            for before, factor in zip(left, factors[index], strict=True):
                rest.baddbmm_(_group_rows(before, size, coarse), factor.mT, alpha=-1)
            left.append(_rows_of(rest @ inverses[index].mT, size, coarse))
            own.baddbmm_(left[-1], left[-1].mT, alpha=-1)
        identity = torch.eye(own.shape[1], dtype=own.dtype, device=own.device).expand_as(own)
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(own), identity, upper=False)
        blocks[-1].copy_(inverse)
        single = inverse.neg().float()
        for block, factor, coarse in zip(blocks[:-1], left, sizes, strict=False):
            block.copy_(_group_rows(single @ factor.float(), size, coarse))
        inverses.append(inverse)
        factors.append(left)


class DiagonalGaussian(LearnedBuffers):
    """Like `NestedGaussian`, with features treated as independent: Σ is diagonal."""

    def __init__(self) -> None:
        """Start without samples."""
        super().__init__()
        self._count = 0
        self.register_buffer("mean_0", torch.empty(0))  # mean_<grid>, [1, H, W, D]
        self.register_buffer("scale_0", torch.empty(0))  # scale_<grid>: scatters; after fit(), 1 / standard deviation

    def update(self, grids: Sequence[Tensor]) -> None:
        """Add a batch, float32 (Chan et al.'s update)."""
        new = len(grids[0])
        if self._count == 0:
            for i, grid in enumerate(grids):
                self.register_buffer(f"mean_{i}", torch.zeros_like(grid[:1]))
                self.register_buffer(f"scale_{i}", torch.zeros_like(grid[:1]))
        for i, grid in enumerate(grids):
            mean, scatter = self.get_buffer(f"mean_{i}"), self.get_buffer(f"scale_{i}")
            own = grid.mean(dim=0, keepdim=True)
            shift = own - mean
            scatter += (grid - own).square().sum(dim=0) + shift.square() * (self._count * new / (self._count + new))
            mean += shift * (new / (self._count + new))
        self._count += new

    def fit(self) -> None:
        """Turn scatters into inverse standard deviations: variances have the divisor N - 1, plus 0.01."""
        for name, scatter in self._buffers.items():
            if name.startswith("scale"):
                scatter.div_(max(1, self._count - 1)).add_(RIDGE).rsqrt_()

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """The quadratic form (x − μ)ᵀ Σ⁻¹ (x − μ), as in `NestedGaussian`."""
        total: Tensor | None = None
        for i, grid in enumerate(x):
            mean, scale = self.get_buffer(f"mean_{i}"), self.get_buffer(f"scale_{i}")
            square = ((grid - mean) * scale).square().sum(dim=3)[:, None]
            total = square if total is None else square + F.interpolate(total, size=grid.shape[1:3], mode="nearest")
        return total[:, 0]


# Changes of layout between nested grids: the positions of a fine grid, grouped by the coarse position they lie in.


def _group_cells(samples: Tensor, coarse: Sequence[int]) -> Tensor:
    """[B, H, W, D] to [P, B, G * D]: for each of the P positions of a coarse grid, the G fine positions inside it."""
    batch, height, width, dims = samples.shape
    split = samples.view(batch, coarse[0], height // coarse[0], coarse[1], width // coarse[1], dims)
    return split.permute(1, 3, 0, 2, 4, 5).reshape(coarse[0] * coarse[1], batch, -1)


def _cells_of(values: Tensor, coarse: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of `_group_cells`: [P, B, G * D] of a grid `coarse` to [B, H, W, D] of a grid of `size`."""
    split = values.view(*coarse, values.shape[1], size[0] // coarse[0], size[1] // coarse[1], -1)
    return split.permute(2, 0, 3, 1, 4, 5).reshape(values.shape[1], *size, -1)


def _group_rows(rows: Tensor, size: Sequence[int], coarse: Sequence[int]) -> Tensor:
    """[P, D, E] of a grid of `size` to [P_coarse, G * D, E]."""
    split = rows.view(coarse[0], size[0] // coarse[0], coarse[1], size[1] // coarse[1], *rows.shape[1:])
    return split.transpose(1, 2).reshape(coarse[0] * coarse[1], -1, rows.shape[2])


def _rows_of(rows: Tensor, size: Sequence[int], coarse: Sequence[int]) -> Tensor:
    """The inverse of `_group_rows`."""
    split = rows.view(*coarse, size[0] // coarse[0], size[1] // coarse[1], -1, rows.shape[2])
    return split.transpose(1, 2).reshape(size[0] * size[1], -1, rows.shape[2])
