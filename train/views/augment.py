"""Batched image operations with per-image parameters, on whatever device the images are on.

Images are float32 tensors of shape (B, 3, S, S) with values in [0, 1]; parameters have shape (B,) or
(B, n). Parameters on the CPU decide which images an operation touches, so the CPU never waits for a GPU.
No operation compares pixels, indexes images by a tensor or uses `index_copy`: on a CPU these take five to
ten times as long as arithmetic, `index_select` and copies.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.transfer import to_device
from .randomness import between

JITTER_ORDERS = list(itertools.permutations(range(4)))
"""The 24 orders of brightness (0), contrast (1), saturation (2) and hue (3)."""
_ORDERS = np.array(JITTER_ORDERS)

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and torchvision


def crop(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Resize a box of each image to the size of the image, bilinearly, and mirror it if asked.

    Pixel centres lie at half-integers, as with `torch.nn.functional.interpolate(align_corners=False)`.
    Nothing outside the box is read.

    Args:
        images: (B, 3, S, S).
        boxes: (B, 4): top, left, height and width in pixels, inside the image; fractions are allowed.
        flipped: (B,), bool: which images to mirror left to right.

    Returns:
        New images (B, 3, S, S).
    """
    size = images.shape[-1]
    start, length = boxes[:, :2, None], boxes[:, 2:, None]
    pixel = torch.arange(size, device=images.device) + 0.5
    position = (start + pixel * (length / size)).clamp(start + 0.5, start + length - 0.5)
    rows, columns = (position * (2 / size) - 1).unbind(1)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def blur_(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images by a Gaussian with reflected borders, in place.

    A blur is two products with a matrix per image, along rows and columns. Up to 224 px that is as fast on a CPU
    as sums of shifted images, and it takes few calls on a GPU.

    Args:
        images: (B, 3, S, S), changed in place.
        sigma: (B,), in pixels, on the CPU; an image with sigma 0 is not touched.
    """
    chosen = sigma.nonzero()[:, 0]
    if len(chosen):
        matrices = _blur_matrices(sigma[chosen], images.shape[-1], images.device)
        sharp = images.index_select(0, to_device(chosen, images.device))
        across = torch.bmm(sharp.flatten(1, 2), matrices.mT).view_as(sharp)
        _put(images, chosen, matrices[:, None] @ across)
    return images


def _blur_matrices(sigma: Tensor, size: int, device: torch.device) -> Tensor:
    """One-dimensional Gaussian blurs with reflected borders as matrices: (n,) to (n, S, S), rows sum to 1."""
    radius = min(math.ceil(6 * float(sigma.max())), size - 1)  # beyond 6 sigma, float32 loses the weights
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].double()) ** 2)  # double: the same whatever the radius
    kernel = kernel * (kernel > 1e-8)  # subnormal numbers would slow a CPU down
    kernel = to_device((kernel / kernel.sum(1, keepdim=True)).float(), device)
    source = (torch.arange(size)[:, None] + offset).abs()
    source = to_device(torch.minimum(source, 2 * (size - 1) - source), device)  # a border pixel is not repeated
    matrices = torch.zeros(len(sigma), size, size, device=device)
    count = len(sigma), size, 2 * radius + 1
    return matrices.scatter_add_(2, source.expand(count), kernel[:, None].expand(count))


def gray(images: Tensor) -> Tensor:
    """Luma of RGB images: (B, 3, H, W) to (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def grayscale_(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace images by their luma, in place, where `chosen` (bool (B,), on the CPU) is true."""
    which = chosen.nonzero()[:, 0]
    luma = gray(images.index_select(0, to_device(which, images.device)))
    return _put(images, which, luma.expand(-1, 3, -1, -1))


def _put(images: Tensor, which: Tensor, values: Tensor) -> Tensor:
    """Replace the images at indices `which` (n,), on the CPU, by `values` (n, 3, S, S), in place."""
    if len(which):
        places = images.unbind()
        torch._foreach_copy_([places[i] for i in which.tolist()], list(values.unbind()))
    return images


class JitterDraws(NamedTuple):
    """Random numbers of a colour jitter, each (B,) and uniform in [0, 1)."""

    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    order: np.ndarray


def sample_jitter(draws: JitterDraws, strengths: tuple[float, float, float, float]) -> tuple[Tensor, np.ndarray]:
    """Draw colour-jitter parameters with the distribution of torchvision's ColorJitter.

    Args:
        draws: for B images.
        strengths: of brightness, contrast, saturation (factors in 1 ± strength) and hue (± strength).

    Returns:
        Factors (B, 4) float32 and indices into `JITTER_ORDERS` (B,) int64, for `color_jitter_`.
    """
    limits = np.array(strengths)
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    factors = between(np.stack(draws[:4], 1), np.maximum(centre - limits, [0, 0, 0, -0.5]), centre + limits)
    return torch.from_numpy(factors).float(), (draws.order * len(JITTER_ORDERS)).astype(np.int64)


def color_jitter_(images: Tensor, factors: Tensor, order: np.ndarray, weight: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue in place, in a separate order per image.

    The four operations are torchvision's (`adjust_brightness`, `adjust_contrast`, …), on floats.

    Args:
        images: (B, 3, H, W) in [0, 1], changed in place.
        factors: (B, 4), on the CPU: brightness, contrast and saturation factors (1 changes nothing) and
            the hue shift as a fraction of the circle in [-0.5, 0.5] (0 changes nothing).
        order: (B,), indices into `JITTER_ORDERS`.
        weight: (B, 1, H, W), weights of the pixels whose mean luma is the pivot of the contrast; uniform
            by default.
    """
    changed = (factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1).numpy().nonzero()[0]
    if not len(changed):
        return images
    operations = _ORDERS[order]
    # Four turns. Before each, images are sorted by their next operation, so that each operation is called once.
    rows = np.stack([changed[np.argsort(operations[changed, turn], kind="stable")] for turn in range(4)])
    # sources[turn]: where the sorted images lie in `images` (first turn) or in the result of the turn before.
    sources, place_of = rows.copy(), np.empty(len(images), np.int64)
    for before, after in itertools.pairwise(range(4)):
        place_of[rows[before]] = np.arange(len(changed))
        sources[after] = place_of[rows[after]]
    values = np.concatenate([factors.numpy()[:, :3], _rotations(factors.numpy()[:, 3])], 1)[rows]
    values, sources = (to_device(torch.from_numpy(numbers), images.device) for numbers in (values, sources))
    weights = [None] * 4 if weight is None else weight[to_device(torch.from_numpy(rows), images.device)]
    jittered = images
    for turn in range(4):
        jittered = jittered.index_select(0, sources[turn])
        ends = np.searchsorted(operations[rows[turn], turn], range(5))
        for adjust, column, (start, stop) in zip(_ADJUST, _COLUMNS, itertools.pairwise(ends), strict=True):
            if start < stop:
                pivots = None if weight is None else weights[turn][start:stop]
                adjust(jittered[start:stop], values[turn, start:stop, column], pivots)
    return _put(images, torch.from_numpy(rows[-1]), jittered)


def _brightness(images: Tensor, factor: Tensor, _: Tensor | None) -> None:
    images.mul_(factor[:, :, None, None]).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor, weight: Tensor | None) -> None:
    factor = factor[:, :, None, None]
    if weight is None:
        mean = gray(images.mean((-1, -2), keepdim=True))
    else:
        mean = (gray(images) * weight).sum((-1, -2), keepdim=True) / weight.sum((-1, -2), keepdim=True)
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor, _: Tensor | None) -> None:
    torch.lerp(gray(images), images, factor[:, :, None, None], out=images).clamp_(0, 1)


def _hue(images: Tensor, values: Tensor, _: Tensor | None) -> None:
    """Rotate the hue in the hexcone model (HSV) without computing angles.

    Let v and m be a pixel's largest and smallest channel. Around the colour circle each channel is a
    trapezoid between m and v: an affine function clamped to [m, v]. After a rotation by s sixths of the
    circle, 0 ≤ s ≤ 1, a channel x that is followed by y (green follows red, red follows blue) and then by z
    becomes

        clamp(x - y - (1 - 2 s) z + (1 - s) (m + v), m, v)

    which can be checked on each side of the hexagon. A rotation by -s swaps y and z, and a rotation by a
    third permutes the channels. Every rotation is therefore a matrix, a multiple of m + v, and a clamp.
    """
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    base = (smallest + largest) * values[:, 9:, None, None]
    turned = torch.baddbmm(base.flatten(2), values[:, :9].unflatten(1, (3, 3)), images.flatten(2)).view_as(images)
    torch.clamp(turned, smallest, largest, out=images)


def _rotations(shift: np.ndarray) -> np.ndarray:
    """Values for `_hue`: shifts (B,), as fractions of the circle, to the 9 entries of a matrix and 1 - s, (B, 10)."""
    thirds = np.round(3 * shift)
    sixths = 6 * shift - 2 * thirds  # in [-1, 1]
    x_y_z = np.stack([np.ones_like(shift), 2 * np.maximum(-sixths, 0) - 1, 2 * np.maximum(sixths, 0) - 1], 1)
    channel = np.arange(3)
    source = (channel[None, :] - channel[:, None] + thirds.astype(int)[:, None, None]) % 3
    matrix = x_y_z[np.arange(len(shift))[:, None, None], source]
    return np.concatenate([matrix.reshape(-1, 9), 1 - np.abs(sixths)[:, None]], 1)


_ADJUST = (_brightness, _contrast, _saturation, _hue)
_COLUMNS = (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, None))  # the values of each operation
