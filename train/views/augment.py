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

from .randomness import between

JITTER_ORDERS = list(itertools.permutations(range(4)))
"""The 24 orders of brightness (0), contrast (1), saturation (2) and hue (3)."""

_LEAST = 1 / 50_000  # of a blur's kernel, relative to its middle: what is left out changes no value by 1e-4
_REACH = math.sqrt(-2 * math.log(_LEAST))  # the standard deviations at which a Gaussian has fallen to that
_CACHED = 2**17  # pixels of a batch; measured
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


def blur_(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur with reflected borders.

    Args:
        images: (B, 3, S, S), changed in place.
        sigma: (B,), in pixels, **on the CPU**; an image whose sigma is less than 0.215 stays as it is, as its
            kernel ends where it falls below 1/50,000 of its middle.
        largest: upper bound of sigma.
    """
    size = images.shape[-1]
    chosen = (sigma * _REACH >= 1).nonzero()[:, 0]
    chosen = chosen[sigma[chosen].argsort()]
    weights = _half_kernels(sigma[chosen], min(int(largest * _REACH), size - 1))
    on_cpu = images.device.type == "cpu"  # takes some of much the same sigma at a time, as many as stay in its cache
    some = max(1, _CACHED // size**2 if on_cpu else len(chosen))
    for which, kernels in zip(chosen.split(some), weights.split(some), strict=True):
        if len(which):
            sharp = images.index_select(0, which.to(images.device))
            _put(images, which, (_sum_of_shifted if on_cpu else _convolved)(sharp, kernels))
    return images


def _half_kernels(sigma: Tensor, radius: int) -> Tensor:
    """Weights of a pixel itself and its neighbours on one side, for each sigma: (n,) to (n, radius + 1).

    In double precision, so that an image's weights are the same to the bit whatever the other images.
    """
    weights = torch.exp(-0.5 * (torch.arange(radius + 1) / sigma[:, None].double()) ** 2)
    weights = weights * (weights >= _LEAST)
    return (weights / (2 * weights.sum(1, keepdim=True) - 1)).float()


def _sum_of_shifted(images: Tensor, weights: Tensor) -> Tensor:
    """Blur each image by its weights: n × 3 different convolutions take a CPU two to three times as long."""
    size, radius = images.shape[-1], int(weights.count_nonzero(1).max()) - 1
    middle, *others = weights.t()[: radius + 1, :, None, None, None]
    images = F.pad(images, (radius,) * 4, mode="reflect")
    for dim in (2, 3):
        total = images.narrow(dim, radius, size) * middle
        for shift, weight in enumerate(others, 1):
            for start in (radius - shift, radius + shift):
                total.addcmul_(images.narrow(dim, start, size), weight)
        images = total
    return images


def _convolved(images: Tensor, weights: Tensor) -> Tensor:
    """The same for a GPU, where the number of calls is what costs."""
    size, count, radius = images.shape[-1], 3 * len(images), weights.shape[1] - 1
    kernel = torch.cat([weights.flip(1), weights[:, 1:]], 1).repeat_interleave(3, 0).to(images)
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, count, *(size + 2 * radius,) * 2)
    across = F.conv2d(padded, kernel[:, None, None, :], groups=count)
    return F.conv2d(across, kernel[:, None, :, None], groups=count).view(-1, 3, size, size)


def gray(images: Tensor) -> Tensor:
    """Luma of RGB images: (B, 3, H, W) to (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def grayscale_(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace images by their luma, in place, where `chosen` (bool (B,), on the CPU) is true."""
    which = chosen.nonzero()[:, 0]
    luma = gray(images.index_select(0, which.to(images.device)))
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
    changed = changed[np.argsort(order[changed], kind="stable")]  # images with the same next operation lie side by side
    sequences = [JITTER_ORDERS[number] for number in order[changed]]
    chosen = torch.from_numpy(changed)
    brightness, contrast, saturation = factors[chosen, :3, None, None, None].to(images.device).unbind(1)
    parameters = (brightness, contrast, saturation, _rotations(factors[chosen, 3]).to(images.device))
    here = chosen.to(images.device)
    moved, pivots = images.index_select(0, here), None if weight is None else weight.index_select(0, here)
    for position in range(4):
        stop = 0
        for prefix, run in itertools.groupby(sequences, key=lambda sequence: sequence[: position + 1]):
            start, stop = stop, stop + len(list(run))
            adjust, values = _ADJUST[prefix[-1]], parameters[prefix[-1]]
            adjust(moved[start:stop], values[start:stop], None if pivots is None else pivots[start:stop])
    return _put(images, chosen, moved)


def _brightness(images: Tensor, factor: Tensor, _: Tensor | None) -> None:
    images.mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor, weight: Tensor | None) -> None:
    if weight is None:
        mean = gray(images.mean((-1, -2), keepdim=True))
    else:
        mean = (gray(images) * weight).sum((-1, -2), keepdim=True) / weight.sum((-1, -2), keepdim=True)
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor, _: Tensor | None) -> None:
    torch.lerp(gray(images), images, factor, out=images).clamp_(0, 1)


def _hue(images: Tensor, rotation: Tensor, _: Tensor | None) -> None:
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
    base = (smallest + largest) * rotation[:, 3:, :1, None]
    turned = torch.baddbmm(base.flatten(2), rotation[:, :3], images.flatten(2)).view_as(images)
    torch.clamp(turned, smallest, largest, out=images)


def _rotations(shift: Tensor) -> Tensor:
    """Parameters of `_hue`: hue shifts (B,), as fractions of the circle, to (B, 4, 3), a matrix and a row of 1 - s."""
    thirds = (3 * shift).round()
    sixths = 6 * shift - 2 * thirds  # in [-1, 1]
    ones = torch.ones_like(shift)
    x_y_z = torch.stack([ones, 2 * (-sixths).clamp(min=0) - 1, 2 * sixths.clamp(min=0) - 1], 1)
    channel = torch.arange(3)
    source = (channel[None, :] - channel[:, None] + thirds.long()[:, None, None]) % 3
    matrix = x_y_z[torch.arange(len(shift))[:, None, None], source]
    return torch.cat([matrix, (1 - sixths.abs())[:, None, None].expand(-1, 1, 3)], 1)


_ADJUST = (_brightness, _contrast, _saturation, _hue)
