"""Locally aware patch features, and a store on disk for those of all training images."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.scratch import scratch

PATCH_FEATURES = ("concatenated", "pooled")
POOLED = 1024  # numbers per patch in the authors' code
BLOCK_FLOATS = 2**24  # of patches, or of their distances to a bank, in memory at a time


def patches_of(features: list[Tensor]) -> Tensor:
    """Locally aware patches (PatchCore, section 3.1): 3 x 3 means, resized to the finest grid and concatenated.

    At the border the mean includes the padding's zeros, as in anomalib.

    Args:
        features: float32, each [B, C_l, H_l, W_l], the finest first.

    Returns:
        float32 [B, H_0, W_0, sum of C_l].
    """
    pooled = [F.avg_pool2d(feature, 3, stride=1, padding=1) for feature in features]
    grid = pooled[0].shape[-2:]
    aligned = [pooled[0], *(F.interpolate(p, size=grid, mode="bilinear", align_corners=False) for p in pooled[1:])]
    return torch.cat(aligned, dim=1).permute(0, 2, 3, 1).contiguous()


def pooled_patches_of(features: list[Tensor]) -> Tensor:
    """Locally aware patches as in the authors' code: 3 x 3 windows averaged to 1024 numbers.

    Each layer's windows, C_l * 9 numbers in the order of channels, are averaged to 1024 numbers and resized to the
    finest grid; then the layers, in sequence, are averaged to 1024 again.

    Args:
        features: float32, each [B, C_l, H_l, W_l], the finest first.

    Returns:
        float32 [B, H_0, W_0, 1024].
    """
    grid = features[0].shape[-2:]
    layers = []
    for feature in features:
        windows = F.unfold(feature, 3, padding=1).mT  # [B, H_l * W_l, C_l * 9]
        pooled = F.adaptive_avg_pool1d(windows, POOLED).mT.unflatten(2, feature.shape[-2:])
        layers.append(F.interpolate(pooled, size=grid, mode="bilinear", align_corners=False))
    joined = torch.cat(layers, dim=1).permute(0, 2, 3, 1)
    return F.adaptive_avg_pool1d(joined.flatten(1, 2), POOLED).unflatten(1, grid)


class Patches:
    """The patches of all training images, on disk. They do not depend on the seed, so detectors can share one store."""

    def __init__(self, images: int, kind: str = "concatenated") -> None:
        """Reserve room for the patches of `images` images, once the size of a batch is known.

        Args:
            images: Number of training images.
            kind: One of `PATCH_FEATURES`.
        """
        self.of = pooled_patches_of if kind == "pooled" else patches_of
        self._images = images
        self._count = 0
        self._array: np.ndarray | None = None
        self._latest: list[Tensor] | None = None

    def append(self, features: list[Tensor]) -> None:
        """Add the patches of a batch. Several detectors may share this store; each batch is stored only once."""
        if features is self._latest:
            return
        self._latest = features
        patches = self.of(features).flatten(0, 2).cpu().numpy()
        if self._array is None:
            self._array = scratch((self._images * len(patches) // len(features[0]), patches.shape[1]))
        self._array[self._count : self._count + len(patches)] = patches
        self._count += len(patches)

    def __len__(self) -> int:
        """Number of patches so far."""
        return self._count

    def chunks(self) -> Iterator[Tensor]:
        """The patches in order, float32, in pieces of at most `BLOCK_FLOATS` numbers, [n, C] each."""
        rows = max(1, BLOCK_FLOATS // self._array.shape[1])
        for first in range(0, self._count, rows):
            yield torch.from_numpy(np.array(self._array[first : min(first + rows, self._count)]))

    def take(self, indices: Tensor) -> Tensor:
        """The patches with the given indices, float32 [K, C]."""
        return torch.from_numpy(np.array(self._array[indices.numpy()]))
