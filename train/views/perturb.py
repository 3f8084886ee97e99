"""Local perturbations: they turn a weakly augmented image into a spot-the-difference negative.

SmoothBlend (Zou et al., ECCV 2022, §3.2) cuts a small patch from the image, jitters its colours and
pastes it elsewhere in the same image under a blurred alpha map:

    negative = (1 - alpha) * image + alpha * foreground

The paper's foreground is zero outside the patch. Where the blurred alpha reaches beyond the patch, black
is mixed in: even a patch with the colour of its surroundings gets a dark halo of up to a fifth of the
value range, which gives the perturbation away. By default the foreground is therefore the whole jittered
image, shifted so that the patch lands in its new place. It is defined wherever alpha is, so there is no
halo. `smoothblend_literal` is the paper's form.

CutPaste (Li et al., CVPR 2021), which the paper compares with, pastes without blending. Its scar is a
thin, rotated strip. Both keep the sizes and the jitter of the CutPaste paper.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SpdConfig
from ..data.transfer import to_device
from .augment import JitterDraws, color_jitter_, sample_jitter
from .flaws import flaws
from .randomness import between, log_between

UNIFORMS = 48
"""Uniform numbers per sample for any perturbation."""

_SCAR_WIDTH, _SCAR_LENGTH = (2, 16), (10, 25)  # pixels at 256 px
_CUTPASTE_JITTER = (0.1, 0.1, 0.1, 0.1)
_PLACES = 4  # target places tried per patch; if all overlap the source too much, the first is used


class PatchDraws(NamedTuple):
    """Random numbers of a pasted rectangle, uniform in [0, 1), each (B,) unless stated otherwise."""

    area: np.ndarray
    aspect: np.ndarray
    source_y: np.ndarray
    source_x: np.ndarray
    places: np.ndarray
    """(B, 4, 2): y and x of each target place to try."""
    jitter: JitterDraws

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "PatchDraws":
        """Name the columns of (B, 48) uniforms."""
        return cls(*u.T[:4], u[:, 4 : 4 + 2 * _PLACES].reshape(-1, _PLACES, 2), JitterDraws(*u.T[15:20]))


class ScarDraws(NamedTuple):
    """Random numbers of a pasted strip, uniform in [0, 1), each (B,) unless stated otherwise."""

    width: np.ndarray
    length: np.ndarray
    angle: np.ndarray
    source: np.ndarray
    """(B, 2): y and x of the strip's centre in the source; likewise `target`."""
    target: np.ndarray
    jitter: JitterDraws

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "ScarDraws":
        """Name the columns of (B, 48) uniforms."""
        return cls(*u.T[:3], u[:, 3:5], u[:, 5:7], JitterDraws(*u.T[15:20]))


class Boxes(NamedTuple):
    """A source patch and its target place in each image: int64 tensors (B,), in pixels."""

    height: Tensor
    width: Tensor
    source_y: Tensor
    source_x: Tensor
    y: Tensor
    x: Tensor


def perturb(images: Tensor, uniforms: np.ndarray, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Perturb one small region of each image, as `config.perturbation` says.

    Args:
        images: (B, 3, S, S) in [0, 1].
        uniforms: (B, 48) in [0, 1): the only source of randomness.
        config: kind, sizes and strengths.

    Returns:
        The perturbed images, and alpha of shape (B, 1, S, S) in [0, 1], which is 0 where nothing changed.
    """
    if config.perturbation == "cutpaste_scar":
        changed, alpha = cutpaste_scar(images, ScarDraws.from_uniforms(uniforms))
        return _force_change(images, changed, alpha), alpha
    if config.perturbation == "flaws":
        return flaws(images, uniforms, config)
    draws = PatchDraws.from_uniforms(uniforms)
    return cutpaste(images, draws) if config.perturbation == "cutpaste" else smoothblend(images, draws, config)


def sample_boxes(draws: PatchDraws, size: int, config: SpdConfig) -> Boxes:
    """Choose a source patch and a target place in each image.

    Args:
        draws: for B images.
        size: side of the images, in pixels.
        config: patch areas and aspects.

    Returns:
        Boxes that lie wholly inside the image. Source and target overlap by at most half of the patch,
        unless all four places that were tried overlap by more.
    """
    area = log_between(draws.area, *config.patch_area) * size**2
    aspect = log_between(draws.aspect, *config.patch_aspect)
    minimum = max(config.patch_min_pixels, config.patch_min_side * size)
    height = np.clip(np.sqrt(area * aspect), minimum, size / 2).round()
    width = np.clip(np.sqrt(area / aspect), minimum, size / 2).round()
    source_y = np.floor(draws.source_y * (size - height + 1))
    source_x = np.floor(draws.source_x * (size - width + 1))
    y = np.floor(draws.places[:, :, 0] * (size - height + 1)[:, None])
    x = np.floor(draws.places[:, :, 1] * (size - width + 1)[:, None])
    overlap = np.clip(1 - np.abs(y - source_y[:, None]) / height[:, None], 0, 1) * np.clip(
        1 - np.abs(x - source_x[:, None]) / width[:, None], 0, 1
    )
    chosen = np.arange(len(overlap)), np.argmax(overlap <= 0.5, axis=1)
    return Boxes(*(torch.from_numpy(v).long() for v in (height, width, source_y, source_x, y[chosen], x[chosen])))


def smoothblend(images: Tensor, draws: PatchDraws, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Blend in a jittered patch (paper §3.2), without a halo or literally; returns as `perturb`."""
    boxes = sample_boxes(draws, images.shape[-1], config)
    sigma = (config.alpha_sigma * torch.minimum(boxes.height, boxes.width)).clamp(min=0.5)
    jitter = sample_jitter(draws.jitter, config.patch_jitter)
    return _paste(images, boxes, sigma, jitter, black_outside=config.perturbation == "smoothblend_literal")


def cutpaste(images: Tensor, draws: PatchDraws) -> tuple[Tensor, Tensor]:
    """Paste a jittered patch of 2 to 15 % of the image (CutPaste §A.1); returns as `perturb`."""
    config = SpdConfig(patch_area=(0.02, 0.15), patch_aspect=(0.3, 3.3))
    boxes = sample_boxes(draws, images.shape[-1], config)
    return _paste(images, boxes, torch.zeros(len(images)), sample_jitter(draws.jitter, _CUTPASTE_JITTER))


def cutpaste_scar(images: Tensor, draws: ScarDraws) -> tuple[Tensor, Tensor]:
    """Paste a thin strip, rotated by up to 45° (CutPaste §A.1); returns as `perturb`.

    The strip is 2 to 16 by 10 to 25 pixels at 256 px.
    """
    size, device = images.shape[-1], images.device
    half_width, half_length = (
        to_device((between(torch.from_numpy(u).float(), *limits) * size / 512).clamp(min=smallest), device)
        for u, limits, smallest in ((draws.width, _SCAR_WIDTH, 0.5), (draws.length, _SCAR_LENGTH, 1.5))
    )
    angle = to_device((torch.from_numpy(draws.angle).float() - 0.5) * math.pi / 2, device)
    reach = torch.hypot(half_width, half_length)[:, None]  # distance from the edge that fits the strip at any angle
    source, target = (
        reach + to_device(torch.from_numpy(u).float(), device) * (size - 2 * reach)
        for u in (draws.source, draws.target)
    )

    pixel = torch.arange(size, device=device) + 0.5
    down, right = pixel[None, :, None] - target[:, :1, None], pixel[None, None, :] - target[:, 1:, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across, along = cos * down - sin * right, sin * down + cos * right
    inside = (across.abs() <= half_width[:, None, None]) & (along.abs() <= half_length[:, None, None])
    alpha = inside[:, None].float()
    where = torch.stack([along + source[:, 1:, None], across + source[:, :1, None]], -1) * (2 / size) - 1
    strip = F.grid_sample(images, where, mode="bilinear", padding_mode="border", align_corners=False)
    color_jitter_(strip, *sample_jitter(draws.jitter, _CUTPASTE_JITTER), weight=alpha)
    return torch.where(inside[:, None], strip, images), alpha


def _paste(
    images: Tensor, boxes: Boxes, sigma: Tensor, jitter: tuple[Tensor, np.ndarray], black_outside: bool = False
) -> tuple[Tensor, Tensor]:
    """Blend each image's jittered source box into its target place.

    Only a window around the target place is computed.

    Args:
        images: (B, 3, S, S).
        boxes: from `sample_boxes`, on the CPU.
        sigma: (B,), blur of the alpha map in pixels, on the CPU; 0 pastes with sharp edges.
        jitter: factors and orders of the patches' colour jitter.
        black_outside: make the foreground black outside the patch.
    """
    size, device = images.shape[-1], images.device
    margin = (3 * sigma).ceil().long()  # beyond it alpha is below 1/512
    window = min(size, int((torch.maximum(boxes.height, boxes.width) + 2 * margin).max()))
    boxes = Boxes(*to_device(torch.stack(boxes), device))
    margin, sigma = to_device(margin, device), to_device(sigma, device)
    pixel = torch.arange(window, device=device)
    rows, columns = ((start - margin).clamp(0, size - window)[:, None] + pixel for start in (boxes.y, boxes.x))
    source_rows = (rows + (boxes.source_y - boxes.y)[:, None]).clamp(0, size - 1)
    source_columns = (columns + (boxes.source_x - boxes.x)[:, None]).clamp(0, size - 1)
    place, source = _pixels(rows, columns), _pixels(source_rows, source_columns)

    patch = _outer(_span(rows, boxes.y, boxes.height), _span(columns, boxes.x, boxes.width))
    alpha = _outer(
        _blurred_span(rows, boxes.y, boxes.height, sigma), _blurred_span(columns, boxes.x, boxes.width, sigma)
    )
    alpha = alpha * (alpha >= 1 / 512)  # below half a grey level, the image stays exactly as it is
    foreground = color_jitter_(images[source], *jitter, weight=patch)
    if black_outside:
        foreground = foreground * patch
    covered = images[place]
    blended = _force_change(covered, torch.lerp(covered, foreground, alpha), alpha)
    whole_alpha = images.new_zeros(len(images), 1, size, size)
    whole_alpha[_pixels(rows, columns, channels=1)] = alpha
    return images.index_put(place, blended), whole_alpha


def _pixels(rows: Tensor, columns: Tensor, channels: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Index of the window of `rows` and `columns`, each (B, W): it selects (B, channels, W, W) from images."""
    image, channel = (torch.arange(n, device=rows.device) for n in (len(rows), channels))
    return image[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Outer product per image: (B, W) and (B, W) to (B, 1, W, W)."""
    return rows[:, None, :, None] * columns[:, None, None, :]


def _span(pixel: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """1.0 on the pixels start … start + length - 1, 0.0 elsewhere; `pixel` and the result are (B, W)."""
    return ((pixel >= start[:, None]) & (pixel < (start + length)[:, None])).float()


def _blurred_span(pixel: Tensor, start: Tensor, length: Tensor, sigma: Tensor) -> Tensor:
    """A span blurred by a Gaussian, in closed form; the outer product of two is a blurred rectangle."""
    scale = math.sqrt(0.5) / sigma.clamp(min=1e-3)[:, None]
    after_start = torch.erf((pixel + 0.5 - start[:, None]) * scale)
    after_end = torch.erf((pixel + 0.5 - (start + length)[:, None]) * scale)
    return (after_start - after_end) / 2


def _force_change(images: Tensor, changed: Tensor, alpha: Tensor) -> Tensor:
    """Shift the brightness under alpha if the patch looks like what it covers.

    A negative that equals its positive would teach noise. Our choice: a change of less than two grey levels
    is replaced by a brightness shift of a tenth of the range, towards mid-grey so that it is not clipped.
    Redrawing the patch instead would make the CPU wait for the device.
    """
    unchanged = (changed - images).abs().amax((1, 2, 3), keepdim=True) < 2 / 255
    covered = (images * alpha).mean((1, 2, 3), keepdim=True) / alpha.mean((1, 2, 3), keepdim=True)
    towards_gray = torch.where(covered < 0.5, 0.1, -0.1)
    return torch.where(unchanged, (images + alpha * towards_gray).clamp(0, 1), changed)
