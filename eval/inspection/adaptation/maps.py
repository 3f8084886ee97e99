"""One linear map per layer, learned from photographs of good parts.

Detectors compare patches by distances, and a frozen backbone leaves to chance how much each direction of a feature map
and each layer contributes. What good parts differ by should contribute little. So, with r the difference between a
patch and the nearest patch of other good parts, each layer gets the matrix

    W = (S + SHRINKAGE * mean(diag S) * I)^(-1/2)     S = mean of r r^T over the patches of good parts

scaled so that the mean of |W r|^2 falls by the factor `BALANCE` from layer to layer. There is nothing to train.

The method is ours. Whitening within classes is relevant component analysis (Bar-Hillel et al., JMLR 2005). Patches have
no classes, so the nearest patch of another part takes the place of the class.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...detectors.base import Adapted
from ..features import FeatureStore
from ..threshold import Build

SHRINKAGE = 0.01  # of S towards equal variances; docs/own_parts.md tells how the constants were chosen
BALANCE = 4.0
ENERGY = 100.0  # mean |W r|^2 of the first layer: far above the 0.01 that PaDiM adds to variances
_BANK = 4000  # patches among which the nearest is searched
_QUERIES = 20  # good parts per half whose patches are compared with those of the other half


def adapted(plain: Build, store: FeatureStore) -> Build:
    """Build the detectors that `plain` builds, each behind maps learned from the images that it is built for."""
    return lambda indices: Adapted(plain(indices), learn_maps(store, indices))


def learn_maps(store: FeatureStore, indices: Sequence[int]) -> list[Tensor]:
    """Learn one matrix W per layer from some good parts; see the module's formula.

    The good parts are divided into two halves, and the patches of each half are compared with those of the other.

    Returns:
        float32 [C_l, C_l] per layer, on the features' device.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(np.asarray(indices))
    halves = [_patches(store, order[half::2][:_QUERIES]) for half in range(2)]
    maps = []
    for layer, (first, second) in enumerate(zip(*halves, strict=True)):
        differences = torch.cat([_to_nearest(a, b, rng) for a, b in ((first, second), (second, first))])
        maps.append(_whitening(differences.T @ differences / len(differences), ENERGY * BALANCE**-layer))
    return maps


def _patches(store: FeatureStore, indices: np.ndarray) -> list[Tensor]:
    """The 3 x 3 means around all positions of some images, per layer on its own grid, float32 [n, C_l]."""
    batches = store.batches(indices)
    pooled = ([F.avg_pool2d(x, 3, 1, 1).permute(0, 2, 3, 1).flatten(0, 2) for x in batch] for batch in batches)
    return [torch.cat(parts) for parts in zip(*pooled, strict=True)]


def _to_nearest(patches: Tensor, others: Tensor, rng: np.random.Generator) -> Tensor:
    """Differences between patches and the nearest of at most `_BANK` others, float32 [n, C]."""
    bank = others[torch.from_numpy(rng.permutation(len(others))[:_BANK]).to(others.device)]
    centre = bank.mean(dim=0)
    norms = (bank - centre).square().sum(dim=1)
    nearest = [torch.addmm(norms, c - centre, (bank - centre).T, alpha=-2).argmin(1) for c in patches.split(_BANK)]
    return patches - bank[torch.cat(nearest)]


def _whitening(moment: Tensor, energy: float) -> Tensor:
    """The matrix W for differences r with the given second moment, scaled so that the mean of |W r|^2 is `energy`."""
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=0)
    if not values.any():  # identical images
        return torch.eye(len(moment), device=moment.device)
    shrunk = values + SHRINKAGE * values.mean()
    scale = math.sqrt(energy / float((values / shrunk).sum()))
    return (scale * (vectors * shrunk.rsqrt()) @ vectors.T).float()
