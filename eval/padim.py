"""PaDiM (Defard et al., arXiv 2011.08785): a Gaussian per patch position over concatenated features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.maps import anomaly_maps

RIDGE = 0.01  # added to the diagonal of every covariance (the paper's epsilon)
_CHOLESKY_CHUNK_BYTES = 2**26
_MERGE_IMAGES = 32  # a merge reads and writes all covariances, gigabytes for 550 channels


class Padim:
    """Streamed PaDiM: memory does not grow with the number of training images.

    Feature maps are brought to the finest grid by nearest-neighbour repetition (as the reference code's
    unfold and fold do), `dims` of their C channels are kept (one draw from `seed`), and the mean and
    covariance of each position are merged batch by batch (Chan et al.), which stays exact in float32 for
    features far from zero.
    """

    def __init__(self, image_size: int, seed: int, dims: int | None = None) -> None:
        """Make an empty detector.

        Args:
            image_size: The side of the evaluated image, which is also the side of the maps, in pixels.
            seed: Of the draw of channels.
            dims: Channels to keep, at most C; None for the paper's 550 of 1792 or more, 100 of fewer.
        """
        self._image_size = image_size
        self._seed = seed
        self._dims = dims
        self._channels: Tensor | None = None
        self._pending: list[Tensor] = []
        self._count = 0
        self._mean: Tensor  # [P, D, 1]
        self._scatter: Tensor  # [P, D, D]; after fit(), the Cholesky factor of the covariance

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images.

        Args:
            features: Feature maps of the chosen layers, float32, each [B, C_l, H_l, W_l].
        """
        self._pending.append(self._patches(features))
        if sum(patches.shape[2] for patches in self._pending) >= _MERGE_IMAGES:
            self._merge()

    def _merge(self) -> None:
        patches = torch.cat(self._pending, dim=2)
        self._pending.clear()
        positions, dims, new = patches.shape
        if self._count == 0:
            self._mean = patches.new_zeros(positions, dims, 1)
            self._scatter = patches.new_zeros(positions, dims, dims)
        total = self._count + new
        mean = patches.mean(dim=2, keepdim=True)
        shift = mean - self._mean
        # One more column makes the correction between the two means part of the same product.
        centred = torch.cat([patches - mean, shift * (self._count * new / total) ** 0.5], dim=2)
        self._scatter.baddbmm_(centred, centred.mT)
        self._mean += shift * (new / total)
        self._count = total

    def fit(self) -> None:
        """Factorise the covariances (divisor N - 1) plus 0.01 I; the ridge carries fewer images than dims."""
        if self._pending:
            self._merge()
        dims = self._scatter.shape[1]
        ridge = RIDGE * torch.eye(dims, dtype=torch.float64, device=self._scatter.device)
        # In float64, because features of a large scale against the small ridge exceed float32's range of
        # condition numbers; in chunks and in place, because the covariances are the bulk of the memory.
        for chunk in self._scatter.split(max(1, _CHOLESKY_CHUNK_BYTES // (8 * dims * dims))):
            covariance = chunk.double() / max(1, self._count - 1) + ridge
            chunk.copy_(torch.linalg.cholesky(covariance))

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances of a batch of test images.

        Args:
            features: As for `update`.

        Returns:
            Image scores (the maximum of the map), float32 [B], and maps, float32 [B, S, S].
        """
        patches = self._patches(features)
        whitened = torch.linalg.solve_triangular(self._scatter, patches - self._mean, upper=False)
        height, width = max(f.shape[-2] for f in features), max(f.shape[-1] for f in features)
        distances = whitened.norm(dim=1).T.reshape(-1, height, width)
        maps = anomaly_maps(distances, self._image_size)
        return maps.amax(dim=(1, 2)), maps

    def _patches(self, features: list[Tensor]) -> Tensor:
        """Select and align: [B, C_l, H_l, W_l] of each layer to [P, D, B] on the finest grid."""
        if self._channels is None:
            self._channels = _draw_channels(sum(f.shape[1] for f in features), self._dims, self._seed)
        grid = max(f.shape[-2] for f in features), max(f.shape[-1] for f in features)
        kept, first = [], 0
        for feature in features:
            inside = (self._channels >= first) & (self._channels < first + feature.shape[1])
            if inside.any():
                layer = feature[:, (self._channels[inside] - first).to(feature.device)]
                kept.append(F.interpolate(layer, size=grid, mode="nearest"))
            first += feature.shape[1]
        return torch.cat(kept, dim=1).permute(2, 3, 1, 0).flatten(0, 1)


def _draw_channels(available: int, dims: int | None, seed: int) -> Tensor:
    """Sorted channel indices, [min(dims, available)], on the CPU so that every device draws the same."""
    if dims is None:
        dims = 550 if available >= 1792 else 100
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:dims].sort().values
