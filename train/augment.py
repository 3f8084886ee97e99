"""Batched image operations with per-sample parameters, on whatever device the images are on.

Images are float tensors of shape (B, 3, S, S) with values in [0, 1]; parameters have shape (B,) or
(B, n). Which samples an operation touches is decided from parameters on the CPU, so that a GPU never
has to be waited for. On a CPU a pass over the pixels costs little, but comparing pixels, and choosing
by the outcome, ten times as much: no operation here does either. Nor does any index images by a tensor
or put them back by `index_copy`, which a CPU does five times as slowly as `index_select` and copies.
Large images, which go through many passes, a CPU takes one by one, so that each stays in its cache. Small
ones it takes together, and so does a GPU, as there the number of calls is what costs.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.randomness import between

JITTER_ORDERS = list(itertools.permutations(range(4)))
"""The 24 orders of brightness (0), contrast (1), saturation (2) and hue (3)."""

_REACH = math.sqrt(2 * math.log(2000))  # standard deviations at which a Gaussian has fallen to 1/2000
_LARGE = 96  # pixels; measured
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and torchvision


def crop(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Enlarge a box of each image to the size of the image, bilinearly, and mirror it where asked.

    Pixel centres lie at half-integers (as `torch.nn.functional.interpolate(align_corners=False)` has
    it) and nothing outside the box is read.

    Args:
        images: (B, 3, S, S).
        boxes: (B, 4): top, left, height and width in pixels, inside the image; fractions are allowed.
        flipped: (B,), bool: left and right change places.
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
        sigma: (B,), in pixels, **on the CPU**; the kernel ends where it falls below 1/2000 of its middle, so an
            image whose sigma is less than 0.256 stays as it is.
        largest: upper bound of sigma.
    """
    size = images.shape[-1]
    chosen = (sigma * _REACH >= 1).nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    if _one_by_one(images):
        for i in chosen.tolist():
            _blur_one_(images[i], sigma[i].item())
        return images
    count, radius = 3 * len(chosen), min(int(largest * _REACH), size - 1)
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset / sigma[chosen, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(images)
    some = images.index_select(0, chosen.to(images.device))
    padded = F.pad(some, (radius,) * 4, mode="reflect").reshape(1, count, *(size + 2 * radius,) * 2)
    across = F.conv2d(padded, kernel[:, None, None, :], groups=count)
    blurred = F.conv2d(across, kernel[:, None, :, None], groups=count)
    return _put(images, chosen, blurred.view(-1, 3, size, size))


def _one_by_one(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.shape[-1] >= _LARGE


def _blur_one_(image: Tensor, sigma: float) -> None:
    """Blur (3, S, S) in place as a sum of shifted copies, only as many as its own sigma needs."""
    radius = min(int(sigma * _REACH), image.shape[-1] - 1)
    weights = [math.exp(-0.5 * (shift / sigma) ** 2) for shift in range(radius + 1)]
    scale = 1 / (2 * sum(weights) - 1)
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")[0]
    rows = _add_shifted(padded, weights, 1)
    _add_shifted(rows, [weight * scale**2 for weight in weights], 2, out=image)


def _add_shifted(padded: Tensor, weights: list[float], dim: int, out: Tensor | None = None) -> Tensor:
    radius = len(weights) - 1
    size = padded.shape[dim] - 2 * radius
    total = torch.mul(padded.narrow(dim, radius, size), weights[0], out=out)
    for shift, weight in enumerate(weights[1:], 1):
        for start in (radius - shift, radius + shift):
            total.add_(padded.narrow(dim, start, size), alpha=weight)
    return total


def gray(images: Tensor) -> Tensor:
    """Luma of RGB images: (B, 3, H, W) to (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def grayscale_(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace, in place, the images where `chosen` (B,), on the CPU, is true by their luma."""
    which = chosen.nonzero()[:, 0]
    luma = gray(images.index_select(0, which.to(images.device)))
    return _put(images, which, luma.expand(-1, 3, -1, -1))


def _put(images: Tensor, which: Tensor, values: Tensor) -> Tensor:
    """Replace some images, in place: `which` (n,), on the CPU, by `values` (n, 3, S, S)."""
    if len(which):
        places = images.unbind()
        torch._foreach_copy_([places[i] for i in which.tolist()], list(values.unbind()))
    return images


def sample_jitter(uniforms: np.ndarray, strengths: tuple[float, float, float, float]) -> tuple[Tensor, np.ndarray]:
    """Draw colour-jitter parameters as torchvision's ColorJitter does.

    Args:
        uniforms: (B, 5) in [0, 1).
        strengths: of brightness, contrast, saturation (factors in 1 ± strength) and hue (± strength).

    Returns:
        Factors (B, 4) float32 and the number of the order in `JITTER_ORDERS` (B,), for `color_jitter_`.
    """
    limits = np.array(strengths)
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    factors = between(uniforms[:, :4], np.maximum(centre - limits, [0, 0, 0, -0.5]), centre + limits)
    return torch.from_numpy(factors).float(), (uniforms[:, 4] * len(JITTER_ORDERS)).astype(np.int64)


def color_jitter_(images: Tensor, factors: Tensor, order: np.ndarray, weight: Tensor | None = None) -> Tensor:
    """Brightness, contrast, saturation and hue, in an order of each sample's own.

    The four operations are torchvision's (`adjust_brightness`, `adjust_contrast`, …), on floats.

    Args:
        images: (B, 3, H, W) in [0, 1], changed in place.
        factors: (B, 4), on the CPU: brightness, contrast and saturation factors (1 changes nothing) and
            the hue shift as a fraction of the circle in [-0.5, 0.5] (0 changes nothing).
        order: (B,), each a number of `JITTER_ORDERS`.
        weight: (B, 1, H, W), the pixels whose mean luma is the pivot of the contrast; all by default.
    """
    changed = (factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1).nonzero()[:, 0].tolist()
    if changed:
        jitter_ = _jitter_one_by_one if _one_by_one(images) else _jitter_by_order
        jitter_(images, changed, factors, order, weight)
    return images


def _jitter_one_by_one(
    images: Tensor, changed: list[int], factors: Tensor, order: np.ndarray, weight: Tensor | None
) -> None:
    single, pivots = images.split(1), None if weight is None else weight.split(1)
    values, rotations = factors.tolist(), _rotations(factors[:, 3]).split(1)
    for i in changed:
        for operation in JITTER_ORDERS[order[i]]:
            value = rotations[i] if operation == _HUE else values[i][operation]
            _ADJUST[operation](single[i], value, None if pivots is None else pivots[i])


def _jitter_by_order(
    images: Tensor, changed: list[int], factors: Tensor, order: np.ndarray, weight: Tensor | None
) -> None:
    """Sort the images by their order, so that those which an operation is next for lie side by side."""
    which = np.array(changed)[np.argsort(order[changed], kind="stable")]
    sequences = [JITTER_ORDERS[number] for number in order[which]]
    which = torch.from_numpy(which)
    brightness, contrast, saturation = factors[which, :3, None, None, None].to(images.device).unbind(1)
    parameters = (brightness, contrast, saturation, _rotations(factors[which, 3]).to(images.device))
    here = which.to(images.device)
    moved, pivots = images.index_select(0, here), None if weight is None else weight.index_select(0, here)
    for position in range(4):
        stop = 0
        for prefix, run in itertools.groupby(sequences, key=lambda sequence: sequence[: position + 1]):
            start, stop = stop, stop + len(list(run))
            adjust, values = _ADJUST[prefix[-1]], parameters[prefix[-1]]
            adjust(moved[start:stop], values[start:stop], None if pivots is None else pivots[start:stop])
    _put(images, which, moved)


def _brightness(images: Tensor, factor: Tensor | float, _: Tensor | None) -> None:
    images.mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor | float, weight: Tensor | None) -> None:
    if weight is None:
        mean = gray(images.mean((-1, -2), keepdim=True))
    else:
        mean = (gray(images) * weight).sum((-1, -2), keepdim=True) / weight.sum((-1, -2), keepdim=True)
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor | float, _: Tensor | None) -> None:
    torch.lerp(gray(images), images, factor, out=images).clamp_(0, 1)


def _hue(images: Tensor, rotation: Tensor, _: Tensor | None) -> None:
    """Turn the hue in the hexcone model (HSV), without going through angles.

    Let v and m be a pixel's largest and smallest channel. Round the colour circle each channel is a
    trapezoid between m and v: an affine function clamped to [m, v]. Turned by s sixths of the circle,
    0 ≤ s ≤ 1, a channel x followed by y (green after red, red after blue) and then by z becomes

        clamp(x - y - (1 - 2 s) z + (1 - s) (m + v), m, v)

    as one checks on each side of the hexagon. Turned back by s, y and z change places; a turn by a
    third only permutes the channels. So every turn is a matrix, a multiple of m + v, and a clamp.
    """
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    base = (smallest + largest) * rotation[:, 3:, :1, None]
    turned = torch.baddbmm(base.flatten(2), rotation[:, :3], images.flatten(2)).view_as(images)
    torch.clamp(turned, smallest, largest, out=images)


def _rotations(shift: Tensor) -> Tensor:
    """For hue shifts (B,), fractions of the circle, what `_hue` needs: (B, 4, 3), the matrix and a row of 1 - s."""
    thirds = (3 * shift).round()
    sixths = 6 * shift - 2 * thirds  # in [-1, 1]
    ones = torch.ones_like(shift)
    x_y_z = torch.stack([ones, 2 * (-sixths).clamp(min=0) - 1, 2 * sixths.clamp(min=0) - 1], 1)
    channel = torch.arange(3)
    source = (channel[None, :] - channel[:, None] + thirds.long()[:, None, None]) % 3
    matrix = x_y_z[torch.arange(len(shift))[:, None, None], source]
    return torch.cat([matrix, (1 - sixths.abs())[:, None, None].expand(-1, 1, 3)], 1)


_ADJUST = (_brightness, _contrast, _saturation, _hue)
_HUE = 3
