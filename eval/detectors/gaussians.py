"""Gaussians of patch features, one a position of the finest of several nested grids, learned from a stream."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .shrinkage import FourthMoment, ledoit_wolf

RIDGE = 0.01  # added to the diagonal of every covariance (PaDiM's epsilon)
_FLOAT32_RANGE = 1000  # largest variance over the ridge: distances then agree with float64's to 1e-5 or so

# Features of one grid are [B, H, W, D]; of all grids a list of them, from the coarsest to the finest, the sides
# of each multiples of those before. A position of the finest grid has the features of all that it lies in.


class NestedGaussian:
    """A Gaussian with full covariance a position of the finest grid; what positions share is stored once.

    Positions share the features of the coarser grids, and with the coarsest features first also the leading
    blocks of their covariances' Cholesky factors: a block (fine, coarse) belongs to a position of the fine
    grid, so it takes D_fine x D_coarse numbers there, not C x C a finest position. Blocks are kept under the
    coarse grid, [P_coarse, G * D_fine, D_coarse] with G fine positions in a coarse one, so that products
    with them are few and large.
    """

    def __init__(self, shrunk: bool = False) -> None:
        """Begin without samples; `shrunk` (one grid only) shrinks covariances as Ledoit and Wolf."""
        self._shrunk = shrunk
        self._fourth: FourthMoment | None = None
        self._count = 0
        self._means: list[Tensor] = []  # [1, H, W, D]; of the first batch until fit()
        self._shifts: list[Tensor] = []  # sums of the samples less these
        self._blocks: list[list[Tensor]] = []  # by fine and coarse grid: scatters until fit(), then whitening

    def merge(self, grids: Sequence[Tensor]) -> None:
        """Take in a batch, float32.

        Sums are of differences to the first batch's mean, which keeps float32 exact far from zero.
        """
        if self._count == 0:
            self._begin(grids)
        centred = [grid - mean for grid, mean in zip(grids, self._means, strict=True)]
        self._count += len(grids[0])
        for shift, samples in zip(self._shifts, centred, strict=True):
            shift += samples.sum(dim=0, keepdim=True)
        self._add_products(centred)
        if self._fourth:
            self._fourth.add(centred[0].flatten(1, 2))

    def fit(self) -> None:
        """From scatters to the inverse Cholesky factors of covariances (divisor N - 1) plus 0.01 I.

        The ridge carries fewer samples than features. For one row of the coarsest grid at a time, because
        covariances are the bulk of the memory.
        """
        shifts = [shift / self._count for shift in self._shifts]
        if self._fourth:
            fourth = self._fourth.about(shifts[0].flatten(1, 2)[0], self._blocks[0][0], self._count)
        self._add_products(shifts, -self._count)
        for mean, shift in zip(self._means, shifts, strict=True):
            mean += shift
        dtype = self._precision()
        rows = self._means[0].shape[1]
        for row in range(rows):
            parts = [[block.chunk(rows)[row] for block in blocks] for blocks in self._blocks]
            if self._fourth:
                covariance = ledoit_wolf(parts[0][0].double() / self._count, fourth.chunk(rows)[row], self._count)
                parts[0][0].copy_(covariance * max(1, self._count - 1))
            self._factorise(parts, rows, dtype)
        self._fourth = None

    def squares(self, grids: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distances, float32 [B, H, W] of the finest grid, of float32 features."""
        total: Tensor | None = None
        whitened: list[Tensor] = []
        for grid, mean, blocks in zip(grids, self._means, self._blocks, strict=True):
            size = grid.shape[1:3]
            own = _under(grid - mean, size) @ blocks[-1].mT
            for coarse, block in zip(whitened, blocks[:-1], strict=True):
                product = _under(coarse, coarse.shape[1:3]) @ block.mT
                own += _under(_spread(product, coarse.shape[1:3], size), size)
            square = own.square().sum(dim=2).T.reshape(len(grid), 1, *size)
            total = square if total is None else square + F.interpolate(total, size=size, mode="nearest")
            whitened.append(_spread(own, size, size))
        return total[:, 0]

    def state(self) -> dict[str, Tensor]:
        """What `squares` needs."""
        state = {f"mean.{i}": mean for i, mean in enumerate(self._means)}
        blocks = {f"whitening.{i}.{j}": b for i, row in enumerate(self._blocks) for j, b in enumerate(row)}
        return state | blocks

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the Gaussian whose `state` this is."""
        count = sum(name.startswith("mean.") for name in state)
        self._means = [state[f"mean.{i}"] for i in range(count)]
        self._blocks = [[state[f"whitening.{i}.{j}"] for j in range(i + 1)] for i in range(count)]

    def _begin(self, grids: Sequence[Tensor]) -> None:
        self._means = [grid.mean(dim=0, keepdim=True) for grid in grids]
        self._shifts = [torch.zeros_like(mean) for mean in self._means]
        self._blocks = []
        for index, fine in enumerate(grids):
            positions = [coarse.shape[1] * coarse.shape[2] for coarse in grids[: index + 1]]
            shapes = [(p, fine[0].numel() // p, grid.shape[3]) for p, grid in zip(positions, grids, strict=False)]
            self._blocks.append([fine.new_zeros(shape) for shape in shapes])
        if self._shrunk:
            self._fourth = FourthMoment()

    def _add_products(self, samples: Sequence[Tensor], weight: float = 1.0) -> None:
        for fine, blocks in zip(samples, self._blocks, strict=True):
            for coarse, block in zip(samples, blocks, strict=False):
                size = coarse.shape[1:3]
                block.baddbmm_(_under(fine, size).mT, _under(coarse, size), alpha=weight)

    def _precision(self) -> torch.dtype:
        """float64 where a large scale against the small ridge exceeds float32's range of condition numbers."""
        scatter = max(float(blocks[-1].diagonal(dim1=1, dim2=2).max()) for blocks in self._blocks)
        return torch.float32 if scatter <= _FLOAT32_RANGE * RIDGE * self._count else torch.float64

    def _factorise(self, parts: list[list[Tensor]], rows: int, dtype: torch.dtype) -> None:
        """Blockwise Cholesky and its inverse, in place, for the positions in one row of the coarsest grid."""
        sizes = [(mean.shape[1] // rows, mean.shape[2]) for mean in self._means]
        divisor = max(1, self._count - 1)
        inverses: list[Tensor] = []  # of each grid's diagonal block
        factors: list[list[Tensor]] = []  # of each grid, its blocks with coarser ones, [P, D, D_coarse]
        for blocks, size in zip(parts, sizes, strict=True):
            own = blocks[-1].to(dtype, copy=True).div_(divisor)
            own.diagonal(dim1=1, dim2=2).add_(RIDGE)
            left: list[Tensor] = []
            for index, (block, coarse) in enumerate(zip(blocks[:-1], sizes, strict=False)):
                rest = block.to(dtype, copy=True).div_(divisor)
                for before, factor in zip(left, factors[index], strict=True):
                    rest.baddbmm_(_rows_under(before, size, coarse), factor.mT, alpha=-1)
                left.append(_rows_of(rest @ inverses[index].mT, size, coarse))
                own.baddbmm_(left[-1], left[-1].mT, alpha=-1)
            identity = torch.eye(own.shape[1], dtype=own.dtype, device=own.device).expand_as(own)
            inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(own), identity, upper=False)
            blocks[-1].copy_(inverse)
            single = inverse.neg().float()
            for block, factor, coarse in zip(blocks[:-1], left, sizes, strict=False):
                block.copy_(_rows_under(single @ factor.float(), size, coarse))
            inverses.append(inverse)
            factors.append(left)


class DiagonalGaussian:
    """As `NestedGaussian`, with features taken for independent."""

    def __init__(self) -> None:
        """Begin without samples."""
        self._count = 0
        self._means: list[Tensor] = []  # [1, H, W, D]
        self._scales: list[Tensor] = []  # scatters until fit(), then inverse standard deviations

    def merge(self, grids: Sequence[Tensor]) -> None:
        """Take in a batch, float32 (Chan et al.'s update)."""
        new = len(grids[0])
        if self._count == 0:
            self._means = [torch.zeros_like(grid[:1]) for grid in grids]
            self._scales = [torch.zeros_like(mean) for mean in self._means]
        for grid, mean, scatter in zip(grids, self._means, self._scales, strict=True):
            own = grid.mean(dim=0, keepdim=True)
            shift = own - mean
            scatter += (grid - own).square().sum(dim=0) + shift.square() * (self._count * new / (self._count + new))
            mean += shift * (new / (self._count + new))
        self._count += new

    def fit(self) -> None:
        """From scatters to inverse standard deviations: variances have the divisor N - 1, plus 0.01."""
        for scatter in self._scales:
            scatter.div_(max(1, self._count - 1)).add_(RIDGE).rsqrt_()

    def squares(self, grids: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distances, float32 [B, H, W] of the finest grid, of float32 features."""
        total: Tensor | None = None
        for grid, mean, scale in zip(grids, self._means, self._scales, strict=True):
            square = ((grid - mean) * scale).square().sum(dim=3)[:, None]
            total = square if total is None else square + F.interpolate(total, size=grid.shape[1:3], mode="nearest")
        return total[:, 0]

    def state(self) -> dict[str, Tensor]:
        """What `squares` needs."""
        state = {f"mean.{i}": mean for i, mean in enumerate(self._means)}
        return state | {f"scale.{i}": scale for i, scale in enumerate(self._scales)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the Gaussian whose `state` this is."""
        count = sum(name.startswith("mean.") for name in state)
        self._means, self._scales = ([state[f"{name}.{i}"] for i in range(count)] for name in ("mean", "scale"))


def _under(samples: Tensor, size: Sequence[int]) -> Tensor:
    """[B, H, W, D] to [P, B, G * D]: under each position of a grid of `size`, all G positions in it."""
    batch, height, width, dims = samples.shape
    split = samples.view(batch, size[0], height // size[0], size[1], width // size[1], dims)
    return split.permute(1, 3, 0, 2, 4, 5).reshape(size[0] * size[1], batch, -1)


def _spread(values: Tensor, coarse: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of `_under`: [P, B, G * D] of a grid `coarse` to [B, H, W, D] of `size`."""
    split = values.view(*coarse, values.shape[1], size[0] // coarse[0], size[1] // coarse[1], -1)
    return split.permute(2, 0, 3, 1, 4, 5).reshape(values.shape[1], *size, -1)


def _rows_under(rows: Tensor, size: Sequence[int], coarse: Sequence[int]) -> Tensor:
    """[P, D, E] of a grid of `size` to [P_coarse, G * D, E]."""
    split = rows.view(coarse[0], size[0] // coarse[0], coarse[1], size[1] // coarse[1], *rows.shape[1:])
    return split.transpose(1, 2).reshape(coarse[0] * coarse[1], -1, rows.shape[2])


def _rows_of(rows: Tensor, size: Sequence[int], coarse: Sequence[int]) -> Tensor:
    """The inverse of `_rows_under`."""
    split = rows.view(*coarse, size[0] // coarse[0], size[1] // coarse[1], -1, rows.shape[2])
    return split.transpose(1, 2).reshape(size[0] * size[1], -1, rows.shape[2])
