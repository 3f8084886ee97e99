"""The features of all normal photographs, extracted once for every detector that is fitted on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..backbone.tiles import AnyExtractor
from ..data.scratch import scratch
from ..predictions import ReportProgress
from .photographs import decode

_BATCH = 8


@dataclass
class FeatureStore:
    """The feature maps of all normal images, on disk, for detectors that are fitted on parts of them.

    Attributes:
        capacity: Maximum number of images.
        images: Number of images so far.
    """

    capacity: int
    images: int = 0
    _arrays: list[np.ndarray] = field(default_factory=list)
    _device: torch.device | None = None

    def append(self, maps: list[Tensor]) -> None:
        """Add a batch of feature maps, float32, each [B, C_l, H_l, W_l]."""
        if not self._arrays:
            self._arrays = [scratch((self.capacity, *layer.shape[1:])) for layer in maps]
            self._device = maps[0].device
        for array, layer in zip(self._arrays, maps, strict=True):
            array[self.images : self.images + len(layer)] = layer.cpu().numpy()
        self.images += len(maps[0])

    @property
    def positions(self) -> int:
        """Number of positions of the finest map."""
        return int(np.prod(self._arrays[0].shape[2:]))

    def batches(self, indices: Sequence[int]) -> Iterator[list[Tensor]]:
        """The feature maps of some images, in the given order."""
        for first in range(0, len(indices), _BATCH):
            chosen = np.asarray(indices[first : first + _BATCH])
            yield [torch.from_numpy(np.array(array[chosen])).to(self._device) for array in self._arrays]


def extract(
    extractor: AnyExtractor, files: Sequence[Path], resize: str, workers: int, progress: ReportProgress
) -> tuple[FeatureStore, list[str]]:
    """Extract the features of all photographs once; also returns one sentence per unreadable photograph."""
    store, errors, done = FeatureStore(len(files)), [], 0
    for batch in decode(files, extractor.image_size, resize, workers, extractor.batch_size):
        if batch.files:
            store.append(extractor(batch.images))
        errors += batch.errors.values()
        done += len(batch.files) + len(batch.errors)
        progress("features", done, len(files))
    return store, errors
