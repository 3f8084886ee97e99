"""Synthetic defects on photographs of good parts: what `fit --adapt` learns from.

Each image gets one local defect with a soft edge, as in SPD's SmoothBlend (Zou et al., ECCV 2022, section 3.2):

    defective = (1 - alpha) * image + alpha * foreground

A kind of defect is a shape (alpha) and a foreground. Sizes scale with the side of the image. They span what the
authors of VisA and MVTec AD call small: 1.5 to 20 % of the side. The ranges are our choice.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_POINTS = 12  # of the polyline that stands for a scratch


def synthetic_defects(images: Tensor, kinds: Sequence[str], seed: int, step: int) -> Tensor:
    """Draw one defect on each image.

    Args:
        images: RGB, uint8 [B, 3, S, S].
        kinds: Of `KINDS`; each is drawn on about the same number of images.
        seed: The result depends on the images, the kinds, the seed and the step only.
        step: Another step gives other defects.

    Returns:
        The defective images, uint8 [B, 3, S, S]. A defect can be invisible, for example blur on a flat surface.
    """
    rng = np.random.default_rng((seed, step))
    order, turn = rng.permutation(len(images)), rng.permutation(len(kinds))
    clean = images.float() / 255
    defective = images.clone()
    for place, kind in enumerate(turn):
        chosen = torch.from_numpy(np.sort(order[place :: len(kinds)]))
        if len(chosen):
            donors = clean[(chosen + 1) % len(images)]
            foreground, alpha = KINDS[kinds[kind]](clean[chosen], donors, rng)
            defective[chosen] = torch.lerp(clean[chosen], foreground.clamp(0, 1), alpha).mul(255).round().byte()
    return defective


def _pasted(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A piece of the same or of another image, with other contrast and brightness."""
    source = torch.where(_uniform(rng, images, 0, 1) < 0.6, images, donors)
    return _recoloured(_shifted(source, rng.uniform(0.1, 0.5, len(images))), rng, 0.3, 0.1), _blob(rng, images)


def _scratched(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A thin curved line, darker or lighter than the surface, or of one colour."""
    shade = images + _sign(rng, images) * _uniform(rng, images, 0.1, 0.5) + 0.1 * _colours(rng, images)
    flat = _uniform(rng, images, 0, 1, channels=3).expand_as(images)
    foreground = torch.where(_uniform(rng, images, 0, 1) < 0.7, shade, flat)
    return foreground, _stroke(rng, images) * _uniform(rng, images, 0.5, 1)


def _spotted(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A small spot, darker or lighter than the surface."""
    offset = _sign(rng, images) * _uniform(rng, images, 0.15, 0.6) + 0.08 * _colours(rng, images)
    return images + offset, _blob(rng, images, 0.0075, 0.025)


def _blurred(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Lost detail."""
    return _smooth(images, 0.05), _blob(rng, images)


def _warped(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A part that is displaced by a few pixels."""
    return _shifted(images, rng.uniform(0.012, 0.04, len(images))), _blob(rng, images)


def _stained(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Another contrast and colour."""
    return _recoloured(images, rng, 0.5, 0.16), _blob(rng, images)


def _missing(images: Tensor, donors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A piece that is filled with a smooth colour from the surroundings."""
    surroundings = _shifted(_smooth(images, 0.1), rng.uniform(0.05, 0.15, len(images)))
    return surroundings + 0.02 * _noise(rng, images), _blob(rng, images)


KINDS: dict[str, Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]] = {
    "pasted": _pasted,
    "scratched": _scratched,
    "spotted": _spotted,
    "blurred": _blurred,
    "warped": _warped,
    "stained": _stained,
    "missing": _missing,
}
"""Images and images to take pieces from, float32 [B, 3, S, S] in [0, 1], to foreground and alpha [B, 1, S, S]."""


def _blob(rng: np.random.Generator, images: Tensor, smallest: float = 0.016, largest: float = 0.1) -> Tensor:
    """An irregular ellipse with a soft edge; the radius lies between two fractions of the image's side."""
    size = images.shape[-1]
    radius = size * torch.exp(_uniform(rng, images, math.log(smallest), math.log(largest)))
    down, right = _from_centre(rng, images, radius / size)
    angle = _uniform(rng, images, 0, math.pi)
    along = right * angle.cos() + down * angle.sin()
    across = (down * angle.cos() - right * angle.sin()) / _uniform(rng, images, 0.5, 1)
    lobes = torch.floor(_uniform(rng, images, 1, 6))
    wave = torch.sin(lobes * torch.atan2(across, along) + _uniform(rng, images, 0, 2 * math.pi))
    rim = radius * (1 + _uniform(rng, images, 0, 0.3) * wave)
    softness = 0.6 + _uniform(rng, images, 0, 0.35) * radius
    return ((rim - torch.hypot(along, across)) / softness + 0.5).clamp(0, 1)


def _stroke(rng: np.random.Generator, images: Tensor) -> Tensor:
    """A line of 5 to 40 % of the image's side that bends steadily; 0.5 to 2 % wide."""
    count, size = len(images), images.shape[-1]
    step = size * np.exp(rng.uniform(math.log(0.05), math.log(0.4), count)) / _POINTS
    heading = rng.uniform(0, 2 * math.pi, count) + np.outer(np.arange(_POINTS), rng.uniform(-0.12, 0.12, count))
    path = np.stack([np.cumsum(step * np.sin(heading), 0), np.cumsum(step * np.cos(heading), 0)], -1)
    path += rng.uniform(0, size, (count, 2)) - path[_POINTS // 2]
    points = torch.from_numpy(path).float()  # [points, B, 2]
    pixels = torch.stack(torch.meshgrid(*(torch.arange(size) + 0.5,) * 2, indexing="ij"), -1).view(-1, 2)
    distance = torch.full((count, size * size), math.inf)
    for start, end in pairwise(points):
        line, offset = (end - start)[:, None], pixels[None] - start[:, None]
        share = ((offset * line).sum(2) / line.square().sum(2)).clamp(0, 1)
        distance = torch.minimum(distance, (offset - share[..., None] * line).norm(dim=2))
    half = _uniform(rng, images, 0.0025, 0.01) * size
    return (half - distance.view(count, 1, size, size) + 0.5).clamp(0, 1)


def _from_centre(rng: np.random.Generator, images: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels below and to the right of a random centre that is at least `margin` of the side from the border."""
    size = images.shape[-1]
    y, x = (size * (margin + (1 - 2 * margin) * _uniform(rng, images, 0, 1)) for _ in range(2))
    pixel = torch.arange(size) + 0.5
    return pixel[:, None] - y, pixel[None, :] - x


def _shifted(images: Tensor, fractions: np.ndarray) -> Tensor:
    """Each image shifted along both axes by its fraction of the side, mirrored at the border."""
    count, size = len(images), images.shape[-1]
    shift = torch.from_numpy(2 * fractions).float()
    affine = torch.eye(2, 3).repeat(count, 1, 1)
    affine[:, 0, 2], affine[:, 1, 2] = shift, -shift
    grid = F.affine_grid(affine, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recoloured(images: Tensor, rng: np.random.Generator, contrast: float, colour: float) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    factor = _uniform(rng, images, 1 - contrast, 1 + contrast)
    return mean + factor * (images - mean) + colour * _colours(rng, images)


def _smooth(images: Tensor, width: float) -> Tensor:
    """Means over squares whose side is a fraction of the image's."""
    reach = max(1, round(width * images.shape[-1] / 2))
    return F.avg_pool2d(F.pad(images, (reach,) * 4, mode="reflect"), 2 * reach + 1, stride=1)


def _uniform(rng: np.random.Generator, images: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
    """Uniform numbers per image, [B, channels, 1, 1]."""
    return torch.from_numpy(rng.uniform(low, high, (len(images), channels, 1, 1))).float()


def _colours(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Normal numbers per image and channel, [B, 3, 1, 1]."""
    return torch.from_numpy(rng.standard_normal((len(images), 3, 1, 1))).float()


def _sign(rng: np.random.Generator, images: Tensor) -> Tensor:
    return torch.sign(_uniform(rng, images, -1, 1))


def _noise(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Normal numbers per pixel."""
    return torch.from_numpy(rng.standard_normal(images.shape)).float()
