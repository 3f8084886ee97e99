"""PaDiM (Defard et al., arXiv 2011.08785): a Gaussian per patch position over concatenated features."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.gaussians import ConditionalGaussians, IndependentGaussians
from eval.maps import anomaly_maps

COVARIANCES = ("full", "ledoit-wolf", "diagonal")
_MERGE_IMAGES = 32  # a merge reads and writes all covariances


class Padim:
    """Streamed PaDiM: memory does not grow with the number of training images.

    Coarse feature maps are brought to the next finer grid by nearest-neighbour repetition (as the reference
    code's unfold and fold do), so positions of the finest grid share what they see of coarser ones. With a
    position's features ordered from coarse to fine, the chain rule of Gaussians splits the squared
    Mahalanobis distance into one term a grid: that of the grid's own features, given the coarser ones. A
    term is fitted and evaluated once a position of its own grid rather than once a position of the finest.
    Distances are those of one covariance a position of the finest grid, for a fraction of work and memory.
    """

    def __init__(self, image_size: int, seed: int, dims: int | None = None, covariance: str = "full") -> None:
        """Make an empty detector.

        Args:
            image_size: The side of the evaluated image, which is also the side of the maps, in pixels.
            seed: Of the draw of channels.
            dims: Channels to keep, at most C; None for the paper's 550 of 1792 or more, 100 of fewer.
            covariance: "full" as the paper has it; "ledoit-wolf" shrinks it, for few images, by each finest
                position's own amount, so that nothing can be shared; "diagonal" takes channels for
                independent.
        """
        self._image_size = image_size
        self._seed = seed
        self._dims = dims
        self._covariance = covariance
        self._channels: Tensor | None = None
        self._pending: list[list[Tensor]] = []
        self._levels: list[ConditionalGaussians | IndependentGaussians] = []  # from the coarsest grid to the finest
        self._sizes: list[tuple[int, ...]] = []  # height and width of their grids

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images.

        Args:
            features: Feature maps of the chosen layers, float32, each [B, C_l, H_l, W_l].
        """
        self._pending.append(self._grids(features))
        if sum(len(grids[0]) for grids in self._pending) >= _MERGE_IMAGES:
            self._merge()

    def fit(self) -> None:
        """Factorise the covariances (divisor N - 1) plus 0.01 I; the ridge carries fewer images than dims."""
        if self._pending:
            self._merge()
        if self._covariance == "diagonal":
            for level in self._levels:
                level.fit()
            return
        coarser: list[tuple[ConditionalGaussians, Tensor]] = []
        for level, size in zip(self._levels, self._sizes, strict=True):
            coarser = [(other, _repeated(position, size)) for other, position in coarser]
            level.fit([(other, position.flatten().long()) for other, position in coarser])
            coarser.append((level, torch.arange(len(level.mean), dtype=torch.float64).view(1, 1, *size)))
        for level in self._levels:
            level.settle()

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances of a batch of test images.

        Args:
            features: As for `update`.

        Returns:
            Image scores (the maximum of the map), float32 [B], and maps, float32 [B, S, S].
        """
        squares: Tensor | None = None
        for level, samples in zip(self._levels, self._samples(self._grids(features)), strict=True):
            size = samples.shape[1:3]
            own = level.squares(samples.flatten(1, 2)).view(-1, 1, *size)
            squares = own if squares is None else own + _repeated(squares, size)
        squares = _repeated(squares, _finest(features))
        maps = anomaly_maps(squares[:, 0].sqrt(), self._image_size)
        return maps.amax(dim=(1, 2)), maps

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        state = {"channels": self._channels}
        for index, level in enumerate(self._levels):
            state |= {f"mean.{index}": level.mean, f"whitening.{index}": level.whitening}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._channels = state["channels"].cpu()
        self._levels = []
        for index in range(sum(name.startswith("mean.") for name in state)):
            level = self._level(state[f"whitening.{index}"].shape[1], last=True)
            level.mean, level.whitening = state[f"mean.{index}"], state[f"whitening.{index}"]
            self._levels.append(level)

    def _merge(self) -> None:
        grids = [torch.cat(parts) for parts in zip(*self._pending, strict=True)]
        self._pending.clear()
        if not self._levels:
            self._sizes = [tuple(grid.shape[2:]) for grid in grids]
            self._levels = [self._level(grid.shape[1], last=grid is grids[-1]) for grid in grids]
        for level, samples in zip(self._levels, self._samples(grids), strict=True):
            level.merge(samples.flatten(1, 2))

    def _level(self, channels: int, last: bool) -> ConditionalGaussians | IndependentGaussians:
        if self._covariance == "diagonal":
            return IndependentGaussians()
        return ConditionalGaussians(channels, precise=not last, shrunk=self._covariance == "ledoit-wolf")

    def _samples(self, grids: list[Tensor]) -> Iterator[Tensor]:
        """What each level sees at its positions, [B, H, W, C]: features of coarser grids first, then its own."""
        seen: Tensor | None = None
        for grid in grids:
            if seen is None or self._covariance == "diagonal":
                seen = grid
            else:
                seen = torch.cat([_repeated(seen, grid.shape[2:]), grid], dim=1)
            yield seen.permute(0, 2, 3, 1)

    def _grids(self, features: list[Tensor]) -> list[Tensor]:
        """The kept channels, [B, D_g, H_g, W_g] for each grid, from the coarsest to the finest."""
        if self._channels is None:
            self._channels = _draw_channels(sum(f.shape[1] for f in features), self._dims, self._seed)
        grids: dict[tuple[int, ...], list[Tensor]] = {}
        first = 0
        for feature in features:
            inside = (self._channels >= first) & (self._channels < first + feature.shape[1])
            if inside.any():
                kept = feature[:, (self._channels[inside] - first).to(feature.device)]
                kept = _repeated(kept, _finest(features)) if self._covariance == "ledoit-wolf" else kept
                grids.setdefault(tuple(kept.shape[2:]), []).append(kept)
            first += feature.shape[1]
        joined = [torch.cat(grids[size], dim=1) for size in sorted(grids)]
        return [grid.contiguous(memory_format=torch.channels_last) for grid in joined]


def _finest(features: list[Tensor]) -> tuple[int, ...]:
    return max(tuple(feature.shape[2:]) for feature in features)


def _repeated(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps, size=size, mode="nearest")


def _draw_channels(available: int, dims: int | None, seed: int) -> Tensor:
    """Sorted channel indices, [min(dims, available)], on the CPU so that every device draws the same."""
    if dims is None:
        dims = 550 if available >= 1792 else 100
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:dims].sort().values
