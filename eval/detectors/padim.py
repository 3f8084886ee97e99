"""PaDiM (Defard et al., arXiv 2011.08785): a Gaussian per patch position over concatenated features."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .gaussians import DiagonalGaussian, NestedGaussian
from .maps import anomaly_maps

COVARIANCES = ("full", "ledoit-wolf", "diagonal")
_MERGE_IMAGES = 32  # a merge reads and writes all covariances


class Padim:
    """Streamed PaDiM: memory does not grow with the number of training images.

    Feature maps are brought to the finest grid by nearest-neighbour repetition, as the reference code's unfold
    and fold do; where the grids nest, that is done in thought only, and distances are the same.
    """

    def __init__(self, image_size: int, seed: int, dims: int | None = None, covariance: str = "full") -> None:
        """Make an empty detector.

        Args:
            image_size: The side of the evaluated image, which is also the side of the maps, in pixels.
            seed: Of the draw of channels.
            dims: Channels to keep, at most C; None for the paper's 550 of 1792 or more, 100 of fewer.
            covariance: "full" as the paper has it; "ledoit-wolf" shrinks it, for few images, by each position's
                own amount, so that positions share nothing; "diagonal" takes channels for independent.
        """
        self._image_size = image_size
        self._seed = seed
        self._dims = dims
        self._shrunk = covariance == "ledoit-wolf"
        self._channels: Tensor | None = None
        self._pending: list[list[Tensor]] = []
        self._gaussian = DiagonalGaussian() if covariance == "diagonal" else NestedGaussian(self._shrunk)

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images.

        Args:
            features: Feature maps of the chosen layers, float32, each [B, C_l, H_l, W_l].
        """
        self._pending.append(self._grids(features))
        if sum(len(grids[0]) for grids in self._pending) >= _MERGE_IMAGES:
            self._merge()

    def fit(self) -> None:
        """Finish learning."""
        if self._pending:
            self._merge()
        self._gaussian.fit()

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances of a batch of test images.

        Args:
            features: As for `update`.

        Returns:
            Image scores (the maximum of the map), float32 [B], and maps, float32 [B, S, S].
        """
        distances = self._gaussian.squares(self._grids(features)).sqrt()
        maps = anomaly_maps(_repeated(distances[:, None], _finest(features))[:, 0], self._image_size)
        return maps.amax(dim=(1, 2)), maps

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        return {"channels": self._channels, **self._gaussian.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._channels = state["channels"].cpu()
        self._gaussian.restore(state)

    def _merge(self) -> None:
        grids = [torch.cat(parts) for parts in zip(*self._pending, strict=True)]
        self._pending.clear()
        self._gaussian.merge(grids)

    def _grids(self, features: list[Tensor]) -> list[Tensor]:
        """The kept channels, [B, H, W, D] for each grid, from the coarsest to the finest, nested."""
        if self._channels is None:
            self._channels = _draw_channels(sum(f.shape[1] for f in features), self._dims, self._seed)
        grids: dict[tuple[int, ...], list[Tensor]] = {}
        first, finest = 0, _finest(features)
        for feature in features:
            inside = (self._channels >= first) & (self._channels < first + feature.shape[1])
            if inside.any():
                kept = feature[:, (self._channels[inside] - first).to(feature.device)]
                grids.setdefault(tuple(kept.shape[2:]), []).append(kept)
            first += feature.shape[1]
        sizes = sorted(grids)
        steps = [step for pair in pairwise(sizes) for step in zip(*pair, strict=True)]
        nested = not self._shrunk and all(fine % coarse == 0 for coarse, fine in steps)
        if not nested:
            grids = {finest: [_repeated(kept, finest) for size in sizes for kept in grids[size]]}
        return [torch.cat(grids[size], dim=1).permute(0, 2, 3, 1).contiguous() for size in sorted(grids)]


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
