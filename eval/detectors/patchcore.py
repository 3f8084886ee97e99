"""PatchCore (Roth et al., arXiv 2106.08265): distances to the nearest patches of a coreset of normal patches."""

from typing import Any

import torch
from torch import Tensor

from .bank.coreset import greedy_coreset
from .bank.nearest import nearest_patches
from .base import Detector
from .maps import anomaly_maps
from .patches import Patches

PROJECTION = 128  # dimensions in which the coreset is selected (section 3.2; the authors' code)
NEIGHBOURS = 9  # neighbours of the nearest normal patch in the re-weighted score (anomalib's; the paper gives none)

STARTS = ("random", "mean")


class Patchcore(Detector):
    """PatchCore. As in anomalib, patches are by default concatenated features, and the selection starts at random."""

    reductions = (8, 16)
    seeded = True
    options = ("coreset_ratio", "coreset_start", "patchcore_features", "patchcore_reweight", "map_size")

    def __init__(
        self, image_size: int, seed: int, ratio: float, reweighted: bool, patches: Patches, start: str = "random"
    ) -> None:
        """Create an unfitted detector.

        Args:
            image_size: Side of the evaluated image and of the maps, in pixels.
            seed: Seed of the random projection and of the first patch of the selection.
            ratio: Fraction of the training patches to keep, in (0, 1].
            reweighted: Whether image scores are weighted by the paper's equation 7 (the authors' code leaves it out)
                instead of the plain maximum of the patch distances.
            patches: Stores the training patches until `fit`.
            start: "random" starts the selection at a random patch. "mean" starts at the patch nearest to their mean, so
                that the seed only draws the projection. Random is the default: AUROCs vary by points between
                selections, and a fixed start would hide that.
        """
        super().__init__()
        self._image_size, self._seed, self._ratio, self._reweighted = image_size, seed, ratio, reweighted
        self._patches, self._start = patches, start
        self.register_buffer("bank", torch.empty(0, 1))  # float32 [M, C]

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images."""
        self._patches.append(features)
        self._device = features[0].device

    def fit(self) -> None:
        """Select the coreset; with a ratio of 1, keep all patches."""
        count = max(1, round(self._ratio * len(self._patches)))
        if count == len(self._patches):
            self._set_bank(torch.cat(list(self._patches.chunks())).to(self._device))
            return
        generator = torch.Generator().manual_seed(self._seed)
        channels = next(self._patches.chunks()).shape[1]
        projection = torch.randn(channels, PROJECTION, generator=generator) / PROJECTION**0.5
        start = int(torch.randint(len(self._patches), (), generator=generator))
        points = torch.cat([chunk.to(self._device) @ projection.to(self._device) for chunk in self._patches.chunks()])
        if self._start == "mean":
            start = int((points - points.mean(dim=0)).square().sum(dim=1).argmin())
        self._set_bank(self._patches.take(greedy_coreset(points, count, start)).to(self._device))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Distances of all patches to the nearest patch of the bank; the image score is their maximum."""
        patches = self._patches.of(features)
        height, width = patches.shape[1:3]
        flat = patches.flatten(0, 2)
        nearest = self._search(flat)
        distances = (flat - self.bank[nearest]).norm(dim=1).view(-1, height * width)
        scores, worst = distances.max(dim=1)
        if self._reweighted:
            at = worst[:, None]
            scores = scores * self._weights(
                patches.flatten(1, 2), nearest.view_as(distances).gather(1, at)[:, 0], worst
            )
        return scores, anomaly_maps(distances.view(-1, height, width), self._image_size)

    def _set_bank(self, bank: Tensor) -> None:
        self.bank = bank
        self._search = nearest_patches(bank)

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        if len(self.bank):  # it is empty in a damaged file, which load_state_dict reports
            self._set_bank(self.bank)

    def _weights(self, patches: Tensor, nearest: Tensor, worst: Tensor) -> Tensor:
        """Equation 7: one minus the share of the nearest normal patch m* among its neighbours in the bank.

        The shares are a softmax over the distances to m* and its nearest neighbours, including m* itself.
        """
        patch = patches.gather(1, worst[:, None, None].expand(-1, -1, patches.shape[2]))[:, 0]
        count = min(NEIGHBOURS, len(self.bank))
        neighbours = self.bank[self._search.neighbours(self.bank[nearest], count)]
        to_neighbours = (patch[:, None] - neighbours).norm(dim=2)
        to_nearest = (patch - self.bank[nearest]).norm(dim=1)
        return 1 - (to_nearest - to_neighbours.logsumexp(dim=1)).exp()
