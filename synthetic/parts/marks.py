"""Damage that lies on a part's surface: scratches, cracks, stains, holes, dents and foreign bodies."""

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from synthetic.parts.surface import Colour, Frame, Surface, disc, polyline, ramp, rgb


class Mark(Protocol):
    """Something that changes a finished relief."""

    def apply(self, surface: Surface) -> None:
        """Change the relief."""


@dataclass(frozen=True)
class Groove:
    """A scratch (bright, shallow) or a crack (dark, deep) along a line."""

    frame: Frame
    points: NDArray[np.float64]  # (n, 2), local
    width: float  # at the widest
    depth: float
    colour: Colour
    strength: float = 1.0
    gloss: float | None = None

    def apply(self, surface: Surface) -> None:
        """Cut the groove; it tapers towards both ends and stays on the part."""
        patch = surface.patch(self.frame, float(np.abs(self.points).max()) * 1.5 + 4 * self.width)
        distance, along = polyline(patch.u, patch.v, self.points)
        taper = np.clip(4 * along, 0, 1) * np.clip(4 * (1 - along), 0, 1)
        half = self.width / 2 * (0.35 + 0.65 * taper)
        on_part = surface.solid[patch.area]
        cover = np.clip(0.5 + (half - distance) / np.maximum(patch.pixel, half * 0.5), 0, 1) * on_part
        surface.paint(patch, cover * self.strength, self.colour, lift=-self.depth, gloss=self.gloss)


@dataclass(frozen=True)
class Stain:
    """A liquid or heat stain: an irregular blot that tints what is under it."""

    frame: Frame
    radius: float
    tint: Colour  # what the albedo is multiplied with where the stain is full
    seed: int
    gloss: float | None = None
    edge: float = 0.35  # part of the radius over which it fades

    def apply(self, surface: Surface) -> None:
        """Tint the part under the blot; its rim is a little darker, as where a drop dries."""
        patch = surface.patch(self.frame, self.radius * 1.8)
        shape = blot(patch.u, patch.v, self.radius, self.seed) / self.radius
        cover = (1 - ramp(shape, -self.edge, 0.1)) * surface.solid[patch.area]
        rim = np.exp(-(((shape + self.edge / 2) / 0.18) ** 2))
        full = (0.75 + 0.25 * rim) * cover
        tinted = surface.albedo[(slice(None), *patch.area)] * rgb(self.tint)
        surface.paint(patch, full, tinted, gloss=self.gloss)


@dataclass(frozen=True)
class Hole:
    """A hole or pit with an irregular rim."""

    frame: Frame
    radius: float
    depth: float
    colour: Colour
    seed: int

    def apply(self, surface: Surface) -> None:
        """Dig the hole."""
        patch = surface.patch(self.frame, self.radius * 1.8)
        shape = blot(patch.u, patch.v, self.radius, self.seed)
        on_part = surface.solid[patch.area]
        cover = patch.cover(shape) * on_part
        depth = self.depth * ramp(-shape, 0, 0.6 * self.radius)
        surface.paint(patch, cover, self.colour, gloss=0.0)
        surface.paint(patch, on_part, lift=-depth)


@dataclass(frozen=True)
class Dent:
    """A smooth dip without any change of material."""

    frame: Frame
    radius: float
    depth: float
    stretch: float = 1.0

    def apply(self, surface: Surface) -> None:
        """Press the dent in."""
        patch = surface.patch(self.frame, self.radius * 2.4 * max(1.0, self.stretch))
        bell = np.exp(-((patch.u / self.stretch) ** 2 + patch.v**2) / self.radius**2 * 1.5)
        surface.paint(patch, bell * surface.solid[patch.area], lift=-self.depth)


@dataclass(frozen=True)
class Fibre:
    """A hair or thread lying on the part."""

    frame: Frame
    points: NDArray[np.float64]
    width: float
    colour: Colour

    def apply(self, surface: Surface) -> None:
        """Lay the fibre; it casts a shadow like everything that has height."""
        patch = surface.patch(self.frame, float(np.abs(self.points).max()) * 1.5 + 4 * self.width)
        distance, _ = polyline(patch.u, patch.v, self.points)
        cover = patch.cover(distance - self.width / 2)
        surface.paint(patch, cover, self.colour, lift=self.width, gloss=0.15)


@dataclass(frozen=True)
class Blob:
    """A drop or crumb of foreign material: solder, glue, plastic, dirt."""

    frame: Frame
    radius: float
    height: float
    colour: Colour
    gloss: float
    seed: int

    def apply(self, surface: Surface) -> None:
        """Put the blob down."""
        patch = surface.patch(self.frame, self.radius * 1.8)
        shape = blot(patch.u, patch.v, self.radius, self.seed)
        dome = self.height * np.sqrt(np.clip(-shape / self.radius, 0, 1))
        surface.paint(patch, patch.cover(shape), self.colour, lift=dome, gloss=self.gloss)


def blot(u: NDArray[np.float32], v: NDArray[np.float32], radius: float, seed: int) -> NDArray[np.float32]:
    """Roughly a signed distance to an irregular, rounded shape of about the given radius."""
    rng = np.random.default_rng(seed)
    angle = np.arctan2(v, u)
    outline = np.full(u.shape, radius, np.float32)
    for wave in range(2, 7):
        outline += np.float32(radius * rng.normal(0, 0.45 / wave**1.5)) * np.cos(
            wave * angle + np.float32(rng.uniform(0, 2 * pi))
        )
    return disc(u, v, 0) - outline


def wander(rng: np.random.Generator, length: float, bend: float, steps: int = 8) -> NDArray[np.float64]:
    """Points of a random line of the given length, centred on the origin; `bend` radians a step."""
    heading = rng.uniform(0, 2 * pi) + np.cumsum(rng.normal(0, bend, steps))
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / steps
    points = np.concatenate([np.zeros((1, 2)), points])
    return points - (points.min(0) + points.max(0)) / 2


def arc(rng: np.random.Generator, length: float, sagitta: float, steps: int = 6) -> NDArray[np.float64]:
    """Points of a slightly curved stroke of the given length, centred on the origin, in any direction."""
    t = np.linspace(-1, 1, steps)
    turn = rng.uniform(0, 2 * pi)
    x, y = t * length / 2, (t * t - 0.5) * sagitta
    return np.stack([x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)], 1)
