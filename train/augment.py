"""Batched image operations with per-sample parameters, on whatever device the images are on.

Images are float tensors of shape (B, 3, S, S) with values in [0, 1]; parameters have shape (B,) or
(B, n). Crops, flips and blurs are separable linear maps, so each is one row matrix and one column
matrix a sample: they compose by matrix product and cost two batched matrix products an image,
whatever the kernel size.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from train.randomness import between

_JITTER_ORDERS = torch.tensor(list(itertools.permutations(range(4))))

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and torchvision


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a linear map along the rows and one along the columns.

    Args:
        images: (B, 3, S, S).
        rows: (B, S, S); output row i is the sum over j of rows[i, j] times input row j.
        columns: (B, S, S), likewise for columns.
    """
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def crop_matrix(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Bilinear enlargement of [start, start + length) to `size` pixels.

    Pixel centres lie at half-integers (as `torch.nn.functional.interpolate(align_corners=False)` has
    it) and nothing outside the crop is read.

    Args:
        start: (B,), in pixels, in [0, size - length].
        length: (B,), in pixels, in [1, size].
        size: side of input and output, in pixels.

    Returns:
        (B, size, size), rows sum to 1.
    """
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    position = start[:, None] + (pixel + 0.5) * (length / size)[:, None] - 0.5
    position = torch.maximum(position, start[:, None])
    position = torch.minimum(position, (start + length)[:, None] - 1)
    return (1 - (position[:, :, None] - pixel).abs()).clamp_(min=0)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur with reflected borders; sigma 0 is the identity.

    Args:
        sigma: (B,), in pixels.
        size: side of the image, in pixels.

    Returns:
        (B, size, size), rows sum to 1.
    """
    scale = sigma.clamp(min=1e-3)[:, None]
    offset = torch.arange(2 * size - 1, device=sigma.device, dtype=sigma.dtype)
    one_sided = torch.exp(-0.5 * (offset / scale) ** 2)
    two_sided = torch.exp(-0.5 * ((offset - (size - 1)) / scale) ** 2)
    kernel = two_sided.unfold(1, size, 1).flip(2)  # i - j
    # What lies beyond a border is the picture mirrored at the border pixel, so it adds to the columns
    # of the mirrored pixels. The border pixels themselves are not mirrored.
    mirrored = one_sided.unfold(1, size, 1).clone()  # i + j
    mirrored[:, :, 0] = 0
    kernel = kernel + mirrored + mirrored.flip(1, 2)
    return kernel / kernel.sum(-1, keepdim=True)


def flip(matrix: Tensor, flipped: Tensor) -> Tensor:
    """Reverse the output order of a column or row matrix where `flipped` (B,) is true."""
    return torch.where(flipped[:, None, None], matrix.flip(1), matrix)


def gray(images: Tensor) -> Tensor:
    """Luma of RGB images: (B, 3, H, W) to (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace the images where `chosen` (B,) is true by their luma."""
    return torch.where(chosen[:, None, None, None], gray(images), images)


def sample_jitter(uniforms: np.ndarray, strengths: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Draw colour-jitter parameters as torchvision's ColorJitter does.

    Args:
        uniforms: (B, 5) in [0, 1).
        strengths: of brightness, contrast, saturation (factors in 1 ± strength) and hue (± strength).

    Returns:
        Factors (B, 4) float32 and order (B, 4) int64, for `color_jitter`.
    """
    limits = np.array(strengths)
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    factors = between(uniforms[:, :4], np.maximum(centre - limits, [0, 0, 0, -0.5]), centre + limits)
    order = _JITTER_ORDERS[torch.from_numpy((uniforms[:, 4] * len(_JITTER_ORDERS)).astype(np.int64))]
    return torch.from_numpy(factors).float(), order


def color_jitter(images: Tensor, factors: Tensor, order: Tensor, weight: Tensor | None = None) -> Tensor:
    """Brightness, contrast, saturation and hue, in an order of each sample's own.

    The four operations are torchvision's (`adjust_brightness`, `adjust_contrast`, …), on floats.

    Args:
        images: (B, 3, H, W) in [0, 1].
        factors: (B, 4): brightness, contrast and saturation factors (1 changes nothing) and the hue
            shift as a fraction of the circle (0 changes nothing), **on the CPU**: which samples an
            operation touches is decided there, so that a GPU never has to be waited for.
        order: (B, 4), on the CPU, a permutation of 0 … 3 a sample.
        weight: (B, 1, H, W), the pixels whose mean luma is the pivot of the contrast; all by default.

    Returns:
        A new tensor, (B, 3, H, W) in [0, 1].
    """
    images = images.clone()
    changes = factors != torch.tensor([1.0, 1.0, 1.0, 0.0])
    for position in range(4):
        for operation, adjust in enumerate((_brightness, _contrast, _saturation, _hue)):
            chosen = ((order[:, position] == operation) & changes[:, operation]).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            factor = factors[chosen, operation].to(images.device, images.dtype)[:, None, None, None]
            chosen = chosen.to(images.device)
            pivot = None if weight is None else weight[chosen]
            images[chosen] = adjust(images[chosen], factor, pivot)
    return images


def _brightness(images: Tensor, factor: Tensor, _: Tensor | None) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor, weight: Tensor | None) -> Tensor:
    luma = gray(images)
    if weight is None:
        mean = luma.mean((-1, -2), keepdim=True)
    else:
        mean = (luma * weight).sum((-1, -2), keepdim=True) / weight.sum((-1, -2), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor, _: Tensor | None) -> Tensor:
    return torch.lerp(gray(images), images, factor).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor, _: Tensor | None) -> Tensor:
    """Rotate the hue: through the hexcone model (HSV) and back."""
    red, green, blue = images.unbind(1)
    value, largest = images.max(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(largest == 0, (green - blue) / safe, (blue - red) / safe + 2)
    hue = torch.where(largest == 2, (red - green) / safe + 4, hue) + 6 * shift[:, 0]
    # f(n) = V - C * max(0, min(k, 4 - k, 1)) with k = (n + H/60°) mod 6, for n = 5 (R), 3 (G), 1 (B).
    n = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)[None, :, None, None]
    k = (n + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)
