"""Local perturbations: what turns a weakly augmented image into a spot-the-difference negative.

SmoothBlend (Zou et al., ECCV 2022, §3.2) cuts a small patch from the image, jitters its colours and
pastes it elsewhere in the same image under a blurred alpha map:

    negative = (1 - alpha) * image + alpha * foreground

The paper's foreground is zero outside the patch. Where the blurred alpha reaches beyond the patch,
that mixes in black: a patch of the colour of its surroundings gets a dark halo of up to a fifth of
the value range, a frame that gives the perturbation away. By default the foreground is therefore the
jittered image itself, shifted so that the patch comes to lie in its new place: it is defined wherever
alpha is, and the halo is gone. `smoothblend_literal` is the paper's form.

CutPaste (Li et al., CVPR 2021), which the paper compares with, pastes without blending; its scar is a
thin, rotated strip. Both keep the sizes and the jitter of their own paper.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SpdConfig
from .augment import color_jitter_, sample_jitter
from .randomness import log_between

UNIFORMS = 20
"""How many uniform numbers a sample's perturbation is drawn from."""

_SCAR = ((2, 16), (10, 25))  # width and length in pixels at 256 px
_CUTPASTE_JITTER = (0.1, 0.1, 0.1, 0.1)
_PLACES = 4  # places tried for the paste before one that overlaps the source is accepted


def perturb(images: Tensor, uniforms: np.ndarray, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Perturb a small place in each image, as `config.perturbation` says.

    Args:
        images: (B, 3, S, S) in [0, 1].
        uniforms: (B, 20) in [0, 1): everything random about it.
        config: kind, sizes and strengths.

    Returns:
        The perturbed images, and alpha of shape (B, 1, S, S) in [0, 1]: 0 where nothing changed.
    """
    if config.perturbation == "cutpaste_scar":
        changed, alpha = cutpaste_scar(images, uniforms)
        return _force_change(images, changed, alpha), alpha
    if config.perturbation == "cutpaste":
        return cutpaste(images, uniforms)
    return smoothblend(images, uniforms, config)


def sample_boxes(uniforms: np.ndarray, size: int, config: SpdConfig) -> dict[str, Tensor]:
    """Choose a source patch and a place for it in each image.

    Args:
        uniforms: (B, ≥ 4 + 2 × 4) in [0, 1).
        size: side of the images, in pixels.
        config: patch areas and aspects.

    Returns:
        int64 tensors of shape (B,), in pixels: `height`, `width`, `source_y`, `source_x`, `y`, `x`.
        Both boxes lie wholly inside the image; they overlap by at most half of the patch (where four
        tries found such a place).
    """
    area = log_between(uniforms[:, 0], *config.patch_area) * size**2
    aspect = log_between(uniforms[:, 1], *config.patch_aspect)
    least = max(config.patch_min_pixels, config.patch_min_side * size)
    height = np.clip(np.sqrt(area * aspect), least, size / 2).round()
    width = np.clip(np.sqrt(area / aspect), least, size / 2).round()
    source_y = np.floor(uniforms[:, 2] * (size - height + 1))
    source_x = np.floor(uniforms[:, 3] * (size - width + 1))
    tries = uniforms[:, 4 : 4 + 2 * _PLACES].reshape(-1, _PLACES, 2)
    y = np.floor(tries[:, :, 0] * (size - height + 1)[:, None])
    x = np.floor(tries[:, :, 1] * (size - width + 1)[:, None])
    overlap = np.clip(1 - np.abs(y - source_y[:, None]) / height[:, None], 0, 1) * np.clip(
        1 - np.abs(x - source_x[:, None]) / width[:, None], 0, 1
    )
    first = np.argmax(overlap <= 0.5, axis=1)
    every = np.arange(len(first))
    boxes = dict(height=height, width=width, source_y=source_y, source_x=source_x)
    boxes |= dict(y=y[every, first], x=x[every, first])
    return {name: torch.from_numpy(value).long() for name, value in boxes.items()}


def smoothblend(images: Tensor, uniforms: np.ndarray, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Blend a jittered patch in (paper §3.2), halo-free or literally; arguments and result as of `perturb`."""
    boxes = sample_boxes(uniforms, images.shape[-1], config)
    sigma = (config.alpha_sigma * torch.minimum(boxes["height"], boxes["width"])).clamp(min=0.5)
    return _paste(images, boxes, sigma, sample_jitter(uniforms[:, 15:20], config.patch_jitter), config.perturbation)


def cutpaste(images: Tensor, uniforms: np.ndarray) -> tuple[Tensor, Tensor]:
    """Paste a jittered patch of 2 to 15 % of the image (CutPaste §A.1); arguments and result as of `perturb`."""
    config = SpdConfig(patch_area=(0.02, 0.15), patch_aspect=(0.3, 3.3))
    boxes = sample_boxes(uniforms, images.shape[-1], config)
    sharp = torch.zeros(len(images))
    return _paste(images, boxes, sharp, sample_jitter(uniforms[:, 15:20], _CUTPASTE_JITTER), "cutpaste")


def cutpaste_scar(images: Tensor, uniforms: np.ndarray) -> tuple[Tensor, Tensor]:
    """Paste a thin strip, turned by up to 45° (CutPaste §A.1); arguments and result as of `perturb`.

    The strip is 2 to 16 by 10 to 25 pixels at 256 px.
    """
    size, device = images.shape[-1], images.device
    u = torch.from_numpy(uniforms).float()
    half_width, half_length = ((low + (high - low) * u[:, i]) * size / 512 for i, (low, high) in enumerate(_SCAR))
    half_width, half_length = half_width.clamp(min=0.5).to(device), half_length.clamp(min=1.5).to(device)
    angle = ((u[:, 2] - 0.5) * math.pi / 2).to(device)
    reach = torch.hypot(half_width, half_length)[:, None]  # centres that keep the strip inside at any angle
    source, target = (reach + u[:, i : i + 2].to(device) * (size - 2 * reach) for i in (3, 5))

    pixel = torch.arange(size, device=device) + 0.5
    down, right = pixel[None, :, None] - target[:, :1, None], pixel[None, None, :] - target[:, 1:, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across, along = cos * down - sin * right, sin * down + cos * right
    inside = (across.abs() <= half_width[:, None, None]) & (along.abs() <= half_length[:, None, None])
    alpha = inside[:, None].float()
    where = torch.stack([along + source[:, 1:, None], across + source[:, :1, None]], -1) * (2 / size) - 1
    turned = F.grid_sample(images, where, mode="bilinear", padding_mode="border", align_corners=False)
    foreground = color_jitter_(turned, *sample_jitter(uniforms[:, 15:20], _CUTPASTE_JITTER), weight=alpha)
    return torch.where(inside[:, None], foreground, images), alpha


def _paste(
    images: Tensor, boxes: dict[str, Tensor], sigma: Tensor, jitter: tuple[Tensor, np.ndarray], kind: str
) -> tuple[Tensor, Tensor]:
    """Blend each image's source box, jittered, into its place; only a window round the place is computed.

    Args:
        images: (B, 3, S, S).
        boxes: from `sample_boxes`, on the CPU.
        sigma: (B,), blur of the alpha map in pixels, on the CPU; 0 pastes with sharp edges.
        jitter: factors and orders of the patches' colour jitter.
        kind: `smoothblend_literal` leaves the foreground black outside the patch.
    """
    size, device = images.shape[-1], images.device
    margin = (3 * sigma).ceil().long()  # alpha has fallen below 1/512 there
    window = min(size, int((torch.maximum(boxes["height"], boxes["width"]) + 2 * margin).max()))
    boxes = {name: value.to(device) for name, value in boxes.items()}
    margin, sigma = margin.to(device), sigma.to(device)
    pixel = torch.arange(window, device=device)
    rows, columns = ((boxes[start] - margin).clamp(0, size - window)[:, None] + pixel for start in ("y", "x"))
    source_rows = (rows + (boxes["source_y"] - boxes["y"])[:, None]).clamp(0, size - 1)
    source_columns = (columns + (boxes["source_x"] - boxes["x"])[:, None]).clamp(0, size - 1)
    place, source = _pixels(rows, columns), _pixels(source_rows, source_columns)

    box = _outer(_span(rows, boxes["y"], boxes["height"]), _span(columns, boxes["x"], boxes["width"]))
    alpha = _outer(
        _blurred_span(rows, boxes["y"], boxes["height"], sigma),
        _blurred_span(columns, boxes["x"], boxes["width"], sigma),
    )
    alpha = alpha * (alpha >= 1 / 512)  # below half a grey level of the full range: exactly untouched
    foreground = color_jitter_(images[source], *jitter, weight=box)
    if kind == "smoothblend_literal":
        foreground = foreground * box
    covered = images[place]
    blended = _force_change(covered, torch.lerp(covered, foreground, alpha), alpha)
    everywhere = images.new_zeros(len(images), 1, size, size)
    everywhere[_pixels(rows, columns, channels=1)] = alpha
    return images.index_put(place, blended), everywhere


def _pixels(rows: Tensor, columns: Tensor, channels: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What to index images with for the window of `rows` and `columns`, each (B, W): (B, channels, W, W)."""
    image, channel = (torch.arange(n, device=rows.device) for n in (len(rows), channels))
    return image[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, W) times (B, W) to (B, 1, W, W)."""
    return rows[:, None, :, None] * columns[:, None, None, :]


def _span(pixel: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """1.0 on the pixels start … start + length - 1, else 0.0: (B, W), as the pixel numbers."""
    return ((pixel >= start[:, None]) & (pixel < (start + length)[:, None])).float()


def _blurred_span(pixel: Tensor, start: Tensor, length: Tensor, sigma: Tensor) -> Tensor:
    """A span blurred by a Gaussian, in closed form: the blur of a rectangle is the product of two of these."""
    scale = math.sqrt(0.5) / sigma.clamp(min=1e-3)[:, None]
    after_start = torch.erf((pixel + 0.5 - start[:, None]) * scale)
    after_end = torch.erf((pixel + 0.5 - (start + length)[:, None]) * scale)
    return (after_start - after_end) / 2


def _force_change(images: Tensor, changed: Tensor, alpha: Tensor) -> Tensor:
    """Shift the brightness under alpha where the patch happens to look like what it covers.

    A negative equal to its positive would teach noise. Our choice: changes of less than two grey
    levels count as none, and are replaced by a brightness shift of a tenth, towards mid-grey so that
    it is not clipped away. No draw is repeated, so nothing has to wait for the device.
    """
    unchanged = (changed - images).abs().amax((1, 2, 3), keepdim=True) < 2 / 255
    covered = (images * alpha).mean((1, 2, 3), keepdim=True) / alpha.mean((1, 2, 3), keepdim=True)
    towards_gray = torch.where(covered < 0.5, 0.1, -0.1)
    return torch.where(unchanged, (images + alpha * towards_gray).clamp(0, 1), changed)
