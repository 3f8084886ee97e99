"""PatchCore (Roth et al., arXiv 2106.08265): distances to the nearest of a coreset of normal patches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.scratch import scratch
from .coreset import greedy_coreset
from .maps import anomaly_maps

PROJECTION = 128  # dimensions in which the coreset is selected (section 3.2, as the authors' code)
NEIGHBOURS = 9  # of the nearest normal patch, for the re-weighted score (anomalib's; the paper names none)
BLOCK_FLOATS = 2**24  # of patches, or of their distances to the bank, in memory at once


class Patches:
    """All patches of the training images, on disk: the same for every seed, so that seeds share them."""

    def __init__(self, images: int) -> None:
        """Expect the patches of so many images."""
        self._images = images
        self._count = 0
        self._array: np.ndarray | None = None
        self._latest: list[Tensor] | None = None

    def append(self, features: list[Tensor]) -> None:
        """Keep the patches of a batch. Detectors that share these offer each batch once each: it is kept once."""
        if features is self._latest:
            return
        self._latest = features
        patches = patches_of(features).flatten(0, 2).cpu().numpy()
        if self._array is None:
            self._array = scratch((self._images * len(patches) // len(features[0]), patches.shape[1]))
        self._array[self._count : self._count + len(patches)] = patches
        self._count += len(patches)

    def __len__(self) -> int:
        """Patches so far."""
        return self._count

    def chunks(self) -> Iterator[Tensor]:
        """The patches in order, float32, [<= n, C] each."""
        rows = max(1, BLOCK_FLOATS // self._array.shape[1])
        for first in range(0, self._count, rows):
            yield torch.from_numpy(np.array(self._array[first : min(first + rows, self._count)]))

    def take(self, indices: Tensor) -> Tensor:
        """The patches of the given indices, float32 [K, C]."""
        return torch.from_numpy(np.array(self._array[indices.numpy()]))


class Patchcore:
    """A coreset of normal patches. Deviations from the paper, both as in anomalib: the features of a
    patch are concatenated rather than averaged to 1024 numbers, and the coreset has one random start.
    """

    def __init__(self, image_size: int, seed: int, ratio: float, reweighted: bool, patches: Patches) -> None:
        """Make an empty detector.

        Args:
            image_size: The side of the evaluated image, which is also the side of the maps, in pixels.
            seed: Of the random projection and the start of the selection.
            ratio: Part of the training patches to keep, in (0, 1].
            reweighted: Whether image scores are weighted by the paper's equation 7 (the authors' code does
                not) rather than the plain maximum of the patch distances.
            patches: Where training patches are kept until `fit`.
        """
        self._image_size = image_size
        self._seed = seed
        self._ratio = ratio
        self._reweighted = reweighted
        self._patches = patches
        self._bank: Tensor  # [M, C]

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images.

        Args:
            features: Feature maps of layer2 and layer3, float32, each [B, C_l, H_l, W_l].
        """
        self._patches.append(features)
        self._device = features[0].device

    def fit(self) -> None:
        """Select the coreset."""
        generator = torch.Generator().manual_seed(self._seed)
        channels = next(self._patches.chunks()).shape[1]
        projection = torch.randn(channels, PROJECTION, generator=generator) / PROJECTION**0.5
        start = int(torch.randint(len(self._patches), (), generator=generator))
        points = torch.cat([chunk.to(self._device) @ projection.to(self._device) for chunk in self._patches.chunks()])
        count = max(1, round(self._ratio * len(points)))
        self._set_bank(self._patches.take(greedy_coreset(points, count, start)).to(self._device))

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Distances of a batch of test images to the nearest normal patches.

        Args:
            features: As for `update`.

        Returns:
            Image scores, float32 [B], and maps, float32 [B, S, S].
        """
        patches = patches_of(features)
        images, height, width, _ = patches.shape
        flat = patches.flatten(0, 2)
        distances, nearest = (found[:, 0].view(images, -1) for found in self._nearest(flat, 1))
        scores, worst = distances.max(dim=1)
        if self._reweighted:
            at = worst[:, None]
            scores = scores * self._weights(flat.view(images, -1, flat.shape[1]), nearest.gather(1, at)[:, 0], worst)
        return scores, anomaly_maps(distances.view(images, height, width), self._image_size)

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        return {"bank": self._bank}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._set_bank(state["bank"])

    def _set_bank(self, bank: Tensor) -> None:
        self._bank = bank
        self._centre = bank.mean(dim=0)  # products of centred patches lose fewer digits
        self._centred = bank - self._centre
        self._norms = self._centred.square().sum(dim=1)

    def _nearest(self, patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances [P, count], ascending, and indices of the nearest patches of the bank.

        A matrix product finds them, differences measure them: what float32 loses in a product can at most
        mistake one for another that is as near to 1e-6 of their squared norms.
        """
        found = []
        for chunk in patches.split(max(1, BLOCK_FLOATS // len(self._bank))):
            product = torch.addmm(self._norms, chunk - self._centre, self._centred.T, alpha=-2)
            index = product.topk(min(count, len(self._bank)), largest=False).indices
            distance = (chunk[:, None] - self._bank[index]).norm(dim=2)
            distance, order = distance.sort(dim=1)
            found.append((distance, index.gather(1, order)))
        return torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])

    def _weights(self, patches: Tensor, nearest: Tensor, worst: Tensor) -> Tensor:
        """Equation 7: one minus the share of the nearest normal patch m* among its neighbours in the bank.

        The shares are a softmax over the distances to m* and its nearest neighbours, m* itself among them.
        """
        patch = patches[torch.arange(len(patches), device=patches.device), worst]
        neighbours = self._bank[self._nearest(self._bank[nearest], NEIGHBOURS)[1]]
        to_neighbours = (patch[:, None] - neighbours).norm(dim=2)
        to_nearest = (patch - self._bank[nearest]).norm(dim=1)
        return 1 - (to_nearest - to_neighbours.logsumexp(dim=1)).exp()


def patches_of(features: list[Tensor]) -> Tensor:
    """Locally aware patches (section 3.1): 3 x 3 means, brought to the finest grid and concatenated.

    Args:
        features: float32, each [B, C_l, H_l, W_l], the finest first.

    Returns:
        float32 [B, H_0, W_0, sum of C_l].
    """
    # At the border the mean counts the padding's zeros, as anomalib's does.
    pooled = [F.avg_pool2d(feature, 3, stride=1, padding=1) for feature in features]
    grid = pooled[0].shape[-2:]
    aligned = [pooled[0], *(F.interpolate(p, size=grid, mode="bilinear", align_corners=False) for p in pooled[1:])]
    return torch.cat(aligned, dim=1).permute(0, 2, 3, 1).contiguous()
