"""PaDiM (Defard et al., arXiv 2011.08785): a Gaussian per patch position over concatenated features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.covariance import ledoit_wolf
from eval.maps import anomaly_maps

COVARIANCES = ("full", "ledoit-wolf", "diagonal")
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

    def __init__(self, image_size: int, seed: int, dims: int | None = None, covariance: str = "full") -> None:
        """Make an empty detector.

        Args:
            image_size: The side of the evaluated image, which is also the side of the maps, in pixels.
            seed: Of the draw of channels.
            dims: Channels to keep, at most C; None for the paper's 550 of 1792 or more, 100 of fewer.
            covariance: "full" as the paper has it; "ledoit-wolf" shrinks it, for few images; "diagonal"
                takes channels for independent, which needs a thousandth of the memory.
        """
        self._image_size = image_size
        self._seed = seed
        self._dims = dims
        self._covariance = covariance
        self._channels: Tensor | None = None
        self._pending: list[Tensor] = []
        self._count = 0
        self._mean: Tensor  # [P, D, 1]
        # [P, D, D], after fit() the Cholesky factor of the covariance; [P, D, 1] and its root if diagonal.
        self._scatter: Tensor
        self._fourth: _FourthMoment | None = None

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
            self._scatter = patches.new_zeros(positions, dims, 1 if self._covariance == "diagonal" else dims)
            self._fourth = _FourthMoment(self._mean) if self._covariance == "ledoit-wolf" else None
        total = self._count + new
        mean = patches.mean(dim=2, keepdim=True)
        shift = mean - self._mean
        if self._fourth:
            self._fourth.merge(self._scatter, shift * (new / total), self._count, patches - self._mean)
        # One more column makes the correction between the two means part of the same product.
        centred = torch.cat([patches - mean, shift * (self._count * new / total) ** 0.5], dim=2)
        if self._covariance == "diagonal":
            self._scatter += centred.square().sum(dim=2, keepdim=True)
        else:
            self._scatter.baddbmm_(centred, centred.mT)
        self._mean += shift * (new / total)
        self._count = total

    def fit(self) -> None:
        """Factorise the covariances (divisor N - 1) plus 0.01 I; the ridge carries fewer images than dims."""
        if self._pending:
            self._merge()
        if self._covariance == "diagonal":
            self._scatter.div_(max(1, self._count - 1)).add_(RIDGE).sqrt_()
            return
        dims = self._scatter.shape[1]
        ridge = RIDGE * torch.eye(dims, dtype=torch.float64, device=self._scatter.device)
        # In float64, because features of a large scale against the small ridge exceed float32's range of
        # condition numbers; in chunks and in place, because the covariances are the bulk of the memory.
        rows = max(1, _CHOLESKY_CHUNK_BYTES // (8 * dims * dims))
        for first in range(0, len(self._scatter), rows):
            chunk = self._scatter[first : first + rows]
            if self._fourth:
                fourth = self._fourth.value[first : first + rows]
                covariance = ledoit_wolf(chunk.double() / self._count, fourth, self._count)
            else:
                covariance = chunk.double() / max(1, self._count - 1)
            chunk.copy_(torch.linalg.cholesky(covariance + ridge))

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances of a batch of test images.

        Args:
            features: As for `update`.

        Returns:
            Image scores (the maximum of the map), float32 [B], and maps, float32 [B, S, S].
        """
        patches = self._patches(features)
        centred = patches - self._mean
        if self._covariance == "diagonal":
            whitened = centred / self._scatter
        else:
            whitened = torch.linalg.solve_triangular(self._scatter, centred, upper=False)
        height, width = max(f.shape[-2] for f in features), max(f.shape[-1] for f in features)
        distances = whitened.norm(dim=1).T.reshape(-1, height, width)
        maps = anomaly_maps(distances, self._image_size)
        return maps.amax(dim=(1, 2)), maps

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""
        return {"channels": self._channels, "mean": self._mean, "factor": self._scatter}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is."""
        self._channels, self._mean, self._scatter = state["channels"].cpu(), state["mean"], state["factor"]

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


class _FourthMoment:
    """Sum of the fourth powers of the samples' distances to their mean, streamed: Ledoit-Wolf's noise.

    When the mean moves by d, with y the samples less the old mean, S their scatter and v = sum |y|² y,
    sum |y - d|⁴ = sum |y|⁴ + 4 d'Sd - 4 v'd + 2 |d|² tr S + n |d|⁴, as sum y = 0; v moves likewise.
    """

    def __init__(self, mean: Tensor) -> None:
        self.value = torch.zeros(len(mean), dtype=torch.float64, device=mean.device)  # [P]
        self._third = torch.zeros_like(mean, dtype=torch.float64)  # v, [P, D, 1]

    def merge(self, scatter: Tensor, shift: Tensor, count: int, new: Tensor) -> None:
        """Move the mean of `count` samples by `shift` [P, D, 1]; `new` [P, D, B] are less the old mean."""
        product = (scatter @ shift).double()
        shift = shift.double()
        trace = scatter.diagonal(dim1=1, dim2=2).sum(dim=1).double()
        length = shift.square().sum(dim=(1, 2))
        self.value += 4 * (shift * (product - self._third)).sum(dim=(1, 2)) + 2 * length * trace + count * length**2
        self._third -= 2 * product + shift * (trace + count * length)[:, None, None]
        moved = new.double() - shift
        squares = moved.square().sum(dim=1, keepdim=True)  # [P, 1, B]
        self.value += squares.square().sum(dim=(1, 2))
        self._third += (moved * squares).sum(dim=2, keepdim=True)


def _draw_channels(available: int, dims: int | None, seed: int) -> Tensor:
    """Sorted channel indices, [min(dims, available)], on the CPU so that every device draws the same."""
    if dims is None:
        dims = 550 if available >= 1792 else 100
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:dims].sort().values
