"""A relief seen from above, and the coordinate frames and shapes that are drawn on it.

Lengths are in units of the picture's shorter side; (0, 0) is the centre of the picture, y points down.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import cos, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Colour = tuple[float, float, float]


class Frame(NamedTuple):
    """A local coordinate frame: where its origin lies, how it is turned (radians) and its unit length."""

    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0
    scale: float = 1.0

    def at(self, x: float, y: float, angle: float = 0.0, scale: float = 1.0) -> "Frame":
        """Return the frame whose origin lies at local (x, y), turned and scaled relative to this one."""
        c, s = cos(self.angle) * self.scale, sin(self.angle) * self.scale
        return Frame(self.x + c * x - s * y, self.y + s * x + c * y, self.angle + angle, self.scale * scale)

    def to(self, x: float, y: float) -> tuple[float, float]:
        """Return local (x, y) in the coordinates of the picture."""
        there = self.at(x, y)
        return there.x, there.y


@dataclass(frozen=True)
class Patch:
    """The rectangle of the picture around a frame's origin, with local coordinates for its pixels."""

    area: tuple[slice, slice]
    u: Field
    v: Field
    pixel: float  # a pixel's side in local units
    scale: float

    def cover(self, distance: Field) -> Field:
        """Turn a signed distance in local units (negative inside) into coverage in [0, 1]."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)


class Surface:
    """Albedo (3, h, w), linear; height and gloss (h, w); all float32.

    `solid` is the coverage of the inspected parts against their background, to which marks keep;
    `owner` is the number of the loose part seen at a pixel, 0 for everything else; `x` and `y` are the
    coordinates of the columns and rows.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Start with a flat black background of (height, width) pixels."""
        height, width = shape
        self.shape = shape
        self.pixel = 1 / min(shape)
        self.albedo = np.zeros((3, height, width), np.float32)
        self.height = np.zeros(shape, np.float32)
        self.gloss = np.zeros(shape, np.float32)
        self.solid = np.zeros(shape, np.float32)
        self.owner = np.zeros(shape, np.uint8)
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) - width / 2) * np.float32(self.pixel)
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) - height / 2) * np.float32(self.pixel)

    def patch(self, frame: Frame, half_u: float, half_v: float | None = None) -> Patch:
        """Return the pixels around the frame's origin that hold |u| <= half_u, |v| <= half_v (local)."""
        half_v = half_u if half_v is None else half_v
        c, s = cos(frame.angle), sin(frame.angle)
        reach_x = (abs(c) * half_u + abs(s) * half_v) * frame.scale + 2 * self.pixel
        reach_y = (abs(s) * half_u + abs(c) * half_v) * frame.scale + 2 * self.pixel
        columns = slice(*np.searchsorted(self.x, (frame.x - reach_x, frame.x + reach_x)))
        rows = slice(*np.searchsorted(self.y, (frame.y - reach_y, frame.y + reach_y)))
        x, y = self.x[columns] - np.float32(frame.x), (self.y[rows] - np.float32(frame.y))[:, None]
        c, s = np.float32(c / frame.scale), np.float32(s / frame.scale)
        return Patch((rows, columns), c * x + s * y, c * y - s * x, self.pixel / frame.scale, frame.scale)

    def paint(
        self,
        patch: Patch,
        cover: Field,
        colour: Colour | Field | None = None,
        *,
        height: float | Field | None = None,
        lift: float | Field | None = None,
        gloss: float | Field | None = None,
        solid: float | None = None,
        owner: int | None = None,
    ) -> None:
        """Lay a material over part of the relief.

        Args:
            patch: Where.
            cover: How much of each pixel is covered, in [0, 1], of the patch's shape.
            colour: The new albedo, linear, or (3, h, w); None keeps what is there.
            height: The new height, in local units.
            lift: What to add to the height instead.
            gloss: The new strength of the mirror reflection.
            solid: 1 makes the covered pixels part of the inspected object, 0 background.
            owner: The loose part that the covered pixels show from now on.
        """
        area = patch.area
        if colour is not None:
            under = self.albedo[(slice(None), *area)]
            under += cover * (rgb(colour) - under)
        if height is not None:
            under = self.height[area]
            under += cover * (np.multiply(height, patch.scale, dtype=np.float32) - under)
        if lift is not None:
            self.height[area] += cover * np.multiply(lift, patch.scale, dtype=np.float32)
        if gloss is not None:
            under = self.gloss[area]
            under += cover * (np.float32(gloss) - under) if np.isscalar(gloss) else cover * (gloss - under)
        if solid is not None:
            under = self.solid[area]
            under += cover * (np.float32(solid) - under)
        if owner is not None:
            self.owner[area][cover > 0.5] = owner

    def noise(self, rng: np.random.Generator, cell: float, octaves: int = 1) -> Field:
        """Smooth random field of about unit variance with features of `cell` units, halved per octave."""
        total = np.zeros(self.shape, np.float32)
        for octave in range(octaves):
            step = cell / 2**octave / self.pixel
            grid = tuple(max(4, round(side / step)) for side in self.shape)
            field = Image.fromarray(rng.standard_normal(grid, dtype=np.float32))
            field = field.resize(self.shape[::-1], Image.Resampling.BICUBIC)
            total += np.float32(1.4 * 0.6**octave) * np.asarray(field)
        return total


def rgb(colour: Colour | Field) -> Field:
    """Make a colour broadcast against (3, h, w)."""
    array = np.asarray(colour, np.float32)
    return array.reshape(3, 1, 1) if array.ndim == 1 else array


def length(u: Field, v: Field) -> Field:
    """Euclidean length; several times faster than np.hypot, which guards against overflow."""
    return np.sqrt(u * u + v * v)


def box(u: Field, v: Field, half_u: float, half_v: float, corner: float = 0.0) -> Field:
    """Signed distance to a rectangle with rounded corners."""
    a, b = np.abs(u) - (half_u - corner), np.abs(v) - (half_v - corner)
    return length(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - corner


def disc(u: Field, v: Field, radius: float) -> Field:
    """Signed distance to a disc."""
    return length(u, v) - radius


def polyline(u: Field, v: Field, points: NDArray[np.float64]) -> tuple[Field, Field]:
    """Distance to an open polyline (n, 2) and the position of the nearest point along it, in [0, 1]."""
    nearest = np.full(u.shape, np.inf, np.float32)
    along = np.zeros(u.shape, np.float32)
    count = len(points) - 1
    for index, (start, end) in enumerate(pairwise(points)):
        dx, dy = (end - start).astype(np.float32)
        t = ((u - np.float32(start[0])) * dx + (v - np.float32(start[1])) * dy) / (dx * dx + dy * dy + 1e-12)
        t = np.clip(t, 0, 1)
        d = length(u - np.float32(start[0]) - t * dx, v - np.float32(start[1]) - t * dy)
        closer = d < nearest
        nearest = np.where(closer, d, nearest)
        along = np.where(closer, (index + t) / count, along)
    return nearest, along


def ramp(x: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
