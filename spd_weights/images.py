"""What training, evaluation and release agree on about images."""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
"""Lower-case suffixes of the files that count as images when a folder is searched."""

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Pillow's names of these formats. Pillow goes by content: without this list, it runs Ghostscript for EPS in x.png."""


def normalized(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Normalise images as a backbone expects them.

    Args:
        images: uint8 (..., C, H, W), values 0 to 255.
        mean: One value per channel, for images scaled to [0, 1].
        std: Likewise.

    Returns:
        A new float32 tensor (..., C, H, W) on the images' device: (images / 255 - mean) / std.
    """
    channel_mean, channel_std = (
        torch.as_tensor(value, dtype=torch.float32, device=images.device).view(-1, 1, 1) for value in (mean, std)
    )
    return images.float().div_(255).sub_(channel_mean).div_(channel_std)
