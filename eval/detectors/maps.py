"""From a grid of patch distances to an anomaly map of the evaluated image's size."""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING_SIGMA = 4.0  # pixels of the evaluated image


def anomaly_maps(distances: Tensor, image_size: int) -> Tensor:
    """Upsample bilinearly to the image's size, then smooth with a Gaussian of sigma 4 pixels.

    The sigma is PaDiM's (section IV.C) at 224 pixels. As in public implementations it stays 4 pixels at all other
    sizes. Borders are reflected like in SciPy's `gaussian_filter`.

    Args:
        distances: Patch distances, float32 [B, H, W].
        image_size: Side S of the evaluated image in pixels.

    Returns:
        Maps, float32 [B, S, S].
    """
    rows, columns = (_matrix(n, image_size).to(distances.device) for n in distances.shape[1:])
    return rows @ distances @ columns.T


@functools.lru_cache(maxsize=8)
def _matrix(patches: int, image_size: int) -> Tensor:
    """Upsampling and smoothing are linear and separable: one matrix [S, patches] does both along one axis."""
    identity = torch.eye(patches, dtype=torch.float64)[None]
    upsample = F.interpolate(identity, size=image_size, mode="linear", align_corners=False)[0].T
    radius = int(4 * SMOOTHING_SIGMA + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SMOOTHING_SIGMA) ** 2)
    source = np.pad(np.arange(image_size), radius, mode="symmetric")
    smooth = np.zeros((image_size, image_size))
    for row in range(image_size):
        np.add.at(smooth[row], source[row : row + 2 * radius + 1], kernel / kernel.sum())
    return (torch.from_numpy(smooth) @ upsample).float()
