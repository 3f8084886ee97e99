"""Flaws: spots and scratches with several fillings, `--spd.perturbation flaws` of any recipe. Ours, not the paper's.

    flawed = (1 - alpha) * image + alpha * filling

alpha is a soft-edged shape: a spot (an ellipse with a wavy outline) or a scratch (a bent stroke). The fillings stand
for what goes wrong with parts:

| filling | stands for | made by |
| --- | --- | --- |
| foreign | a foreign body, a wrong part | the image, mirrored along its diagonal, shifted and recoloured |
| flat | a stain, a hole, a drop of glue | one colour: the mean under alpha plus a step |
| shaded | a dent, a burn, a scratch | the image plus a step of brightness and tint |
| shifted | a crack, a misplaced detail | the image, shifted by a few pixels |
| blurred | wear | the image, blurred |
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import SpdConfig
from ..data.transfer import to_device
from .augment import JitterDraws, blur_, color_jitter_, sample_jitter
from .randomness import between, log_between

VISIBLE = 8 / 255
"""Pixels that change by less do not count as changed: noise hides such a change."""

_SHARES = {"foreign": 0.3, "flat": 0.25, "shaded": 0.25, "shifted": 0.1, "blurred": 0.1}
_SCRATCHES = 0.25  # share of the flaws
_STEP = (0.1, 0.5)  # of brightness, log-uniform
_TINT = 0.15  # largest difference of a channel from that step


class FlawDraws(NamedTuple):
    """Random numbers of one flaw per image, each (B,) and uniform in [0, 1) unless stated otherwise."""

    scratch: np.ndarray
    """Compared with the share of scratches."""
    filling: np.ndarray
    area: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray
    outline: np.ndarray
    """(B, 3): number, height and phase of the waves of a spot's outline; the first also bends a scratch."""
    centre: np.ndarray
    """(B, 2): y and x."""
    softness: np.ndarray
    opacity: np.ndarray
    shift: np.ndarray
    """(B, 2): y and x."""
    step: np.ndarray
    sign: np.ndarray
    tint: np.ndarray
    """(B, 3): one per channel."""
    jitter: JitterDraws

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "FlawDraws":
        """Name the columns of (B, 24) uniforms."""
        return cls(
            *u.T[:5],
            u[:, 5:8],
            u[:, 8:10],
            *u.T[10:12],
            u[:, 12:14],
            *u.T[14:16],
            u[:, 16:19],
            JitterDraws(*u.T[19:24]),
        )


def flaws(images: Tensor, uniforms: np.ndarray, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Put two flaws into each image: as `flaw`, with (B, 48) uniforms."""
    once, first = flaw(images, FlawDraws.from_uniforms(uniforms[:, :24]), config)
    twice, second = flaw(once, FlawDraws.from_uniforms(uniforms[:, 24:]), config)
    return twice, torch.maximum(first, second)


def flaw(images: Tensor, draws: FlawDraws, config: SpdConfig) -> tuple[Tensor, Tensor]:
    """Put one flaw into each image.

    Args:
        images: (B, 3, S, S) in [0, 1].
        draws: the only source of randomness.
        config: `patch_area` is the range of areas, `patch_jitter` recolours foreign fillings.

    Returns:
        The flawed images, and alpha (B, 1, S, S) in [0, 1], which is 0 where the change is invisible.
    """
    alpha = to_device(shapes(images.shape[-1], draws, config), images.device)
    flawed = torch.lerp(images, _fillings(images, alpha, draws, config), alpha).clamp_(0, 1)
    visible = (flawed - images).abs().amax(1, keepdim=True) >= VISIBLE
    return flawed, alpha * visible


def shapes(size: int, draws: FlawDraws, config: SpdConfig) -> Tensor:
    """The alpha maps of spots and scratches: (B, 1, S, S) in [0, 1]."""
    area = log_between(draws.area, *config.patch_area) * size**2
    values = {
        "radius": np.sqrt(area / math.pi),
        "flatness": between(draws.aspect, 0.5, 1),
        "waves": np.floor(between(draws.outline[:, 0], 1, 5)),
        "height": between(draws.outline[:, 1], 0, 0.3),
        "phase": between(draws.outline[:, 2], 0, 2 * math.pi),
        "soft": between(draws.softness, 0.6, np.maximum(0.8, 0.35 * np.sqrt(area / math.pi))),
        "thickness": between(draws.aspect, 0.8, 3.2) * max(1, size / 128),
        "bend": between(draws.outline[:, 0], -1, 1),
        "y": draws.centre[:, 0] * size,
        "x": draws.centre[:, 1] * size,
        "angle": between(draws.angle, 0, math.pi),
        "opacity": between(draws.opacity, 0.5, 1),
    }
    v = {name: torch.from_numpy(value).float()[:, None, None] for name, value in values.items()}
    pixel = torch.arange(size) + 0.5
    down, right = pixel[None, :, None] - v["y"], pixel[None, None, :] - v["x"]
    along, across = (
        v["angle"].cos() * right + v["angle"].sin() * down,
        v["angle"].cos() * down - v["angle"].sin() * right,
    )
    outline = v["radius"] * (1 + v["height"] * (v["waves"] * torch.atan2(across, along) + v["phase"]).sin())
    spot = (outline - torch.hypot(along, across / v["flatness"])) / v["soft"] + 0.5
    length = (torch.from_numpy(area).float()[:, None, None] / v["thickness"]).clamp(4, size / 2)
    curve = v["bend"] * along.square() / length  # a parabola, as high as a quarter of its length
    distance = (across - curve).abs() / (1 + (2 * v["bend"] * along / length).square()).sqrt()
    scratch = torch.minimum(v["thickness"] / 2 - distance, length / 2 - along.abs()) + 0.5
    is_scratch = torch.from_numpy(draws.scratch < _SCRATCHES)[:, None, None]
    return (torch.where(is_scratch, scratch, spot).clamp(0, 1) * v["opacity"])[:, None]


def _fillings(images: Tensor, alpha: Tensor, draws: FlawDraws, config: SpdConfig) -> Tensor:
    size, device = images.shape[-1], images.device
    far = np.floor(between(draws.shift, 0, size))
    near = np.sign(draws.shift - 0.5) * np.floor(between(np.abs(2 * draws.shift - 1), 2, 6))
    step = np.where(draws.sign < 0.5, -1, 1) * log_between(draws.step, *_STEP)
    change = torch.from_numpy(step[:, None] + between(draws.tint, -_TINT, _TINT)).float()
    change = to_device(change, device)[:, :, None, None]
    mean = (images * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp(min=1e-6)
    of_kind = {
        "foreign": color_jitter_(_rolled(images.mT, far), *sample_jitter(draws.jitter, config.patch_jitter)),
        "flat": (mean + change).clamp(0, 1).expand_as(images),
        "shaded": (images + change).clamp(0, 1),
        "shifted": _rolled(images, near),
        "blurred": blur_(images.clone(), torch.full((len(images),), 2.0 * size / 128)),
    }
    ends = np.cumsum(list(_SHARES.values()))[:-1]
    kind = torch.from_numpy(np.searchsorted(ends, draws.filling, side="right"))
    kind = to_device(kind, device)[:, None, None, None]
    return sum((filling * (kind == number) for number, filling in enumerate(of_kind[name] for name in _SHARES)))


def _rolled(images: Tensor, shift: np.ndarray) -> Tensor:
    """Shift each image cyclically by its own whole number of pixels, (B, 2): y and x."""
    size = images.shape[-1]
    indices = torch.arange(size) - torch.from_numpy(shift.T).long()[:, :, None]
    rows, columns = to_device(indices.remainder(size), images.device)
    image, channel = (torch.arange(n, device=images.device) for n in images.shape[:2])
    return images[
        image[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
