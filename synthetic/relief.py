"""A relief seen from above, and the shapes that are painted on it.

Lengths are fractions of the picture's shorter side. (0, 0) is the centre of the picture; y points down.
"""

from itertools import pairwise
from math import cos, pi, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float] | Field  # linear RGB: (3,), or (3, h, w)


class Frame(NamedTuple):
    """A local coordinate frame: position of its origin, rotation in radians, length of its unit."""

    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0
    scale: float = 1.0

    def at(self, x: float, y: float, angle: float = 0.0) -> "Frame":
        """Return the frame with its origin at local (x, y), rotated by `angle` relative to this one."""
        c, s = cos(self.angle) * self.scale, sin(self.angle) * self.scale
        return Frame(self.x + c * x - s * y, self.y + s * x + c * y, self.angle + angle, self.scale)


class Patch(NamedTuple):
    """Pixels around a frame's origin: where they are, their local coordinates, and their local size."""

    area: tuple[slice, slice]
    u: Field
    v: Field
    pixel: float

    def cover(self, distance: Field) -> Field:
        """Turn a signed local distance (negative inside) into antialiased coverage in [0, 1]."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)


class Relief:
    """Albedo (3, h, w), linear RGB; height and gloss (h, w). All float32."""

    def __init__(self, height: int, width: int) -> None:
        """Start with a flat, black, matt surface of (height, width) pixels."""
        self.shape = (height, width)
        self.pixel = 1 / min(self.shape)
        self.albedo = np.zeros((3, height, width), np.float32)
        self.height, self.gloss = np.zeros((2, height, width), np.float32)
        self.y, self.x = (
            np.linspace(-1, 1, side, dtype=np.float32) * (side - 1) / 2 * self.pixel for side in self.shape
        )

    def patch(self, frame: Frame, half_u: float, half_v: float) -> Patch:
        """Return the pixels that contain |u| <= half_u and |v| <= half_v, in the frame's coordinates."""
        c, s = cos(frame.angle), sin(frame.angle)
        reach_x = (abs(c) * half_u + abs(s) * half_v) * frame.scale + 2 * self.pixel
        reach_y = (abs(s) * half_u + abs(c) * half_v) * frame.scale + 2 * self.pixel
        columns = slice(*np.searchsorted(self.x, (frame.x - reach_x, frame.x + reach_x)))
        rows = slice(*np.searchsorted(self.y, (frame.y - reach_y, frame.y + reach_y)))
        x, y = self.x[columns] - np.float32(frame.x), (self.y[rows] - np.float32(frame.y))[:, None]
        c, s = np.float32(c / frame.scale), np.float32(s / frame.scale)
        return Patch((rows, columns), c * x + s * y, c * y - s * x, self.pixel / frame.scale)

    def paint(
        self, patch: Patch, cover: Field, colour: Colour, *, height: Field | None = None,
        lift: float | Field = 0.0, gloss: float | None = None,
    ) -> None:  # fmt: skip
        """Apply a material where `cover`, in [0, 1], says; `lift` is added to the height, None keeps a property."""
        albedo = self.albedo[(slice(None), *patch.area)]
        for field, value in ((albedo, rgb(colour)), (self.height[patch.area], height), (self.gloss[patch.area], gloss)):
            if value is not None:
                field += cover * (np.asarray(value, np.float32) - field)
        self.height[patch.area] += cover * np.asarray(lift, np.float32)

    def noise(self, rng: np.random.Generator, cell: float, octaves: int = 1, stretch: float = 1.0) -> Field:
        """Random field (h, w) of about unit variance; its largest features measure `stretch` * `cell` by `cell`."""
        total = np.zeros(self.shape, np.float32)
        for octave in range(octaves):
            step = cell / 2**octave / self.pixel
            grid = max(4, round(self.shape[0] / step)), max(4, round(self.shape[1] / step / stretch))
            values = Image.fromarray(rng.standard_normal(grid, dtype=np.float32))
            total += 1.4 * 0.6**octave * np.asarray(values.resize(self.shape[::-1], Image.Resampling.BICUBIC))
        return total


def rgb(colour: Colour) -> Field:
    """Make a colour broadcast against (3, h, w)."""
    return np.reshape(np.asarray(colour, np.float32), np.shape(colour) if np.ndim(colour) == 3 else (3, 1, 1))


def mix(one: Colour, other: Colour, amount: Field) -> Field:
    """Blend two colours by a field (h, w) in [0, 1]; returns (3, h, w)."""
    return rgb(one) + amount * (rgb(other) - rgb(one))


def ramp(x: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def length(u: Field, v: Field) -> Field:
    """Euclidean length. Faster than np.hypot, which guards against overflow."""
    return np.sqrt(u * u + v * v)


def box(u: Field, v: Field, half_u: float, half_v: float, corner: float = 0.0) -> Field:
    """Signed distance to a rectangle with rounded corners."""
    a, b = np.abs(u) - (half_u - corner), np.abs(v) - (half_v - corner)
    return length(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - corner


def blot(u: Field, v: Field, radius: float, rng: np.random.Generator, roughness: float = 0.45) -> Field:
    """Approximate signed distance to an irregular, rounded shape of about the given radius."""
    angle, outline = np.arctan2(v, u), np.full(u.shape, radius, np.float32)
    for wave in range(2, 7):
        amplitude, phase = rng.normal(0, roughness / wave**1.5), rng.uniform(0, 2 * pi)
        outline += np.float32(radius * amplitude) * np.cos(wave * angle + np.float32(phase))
    return length(u, v) - outline


def polyline(u: Field, v: Field, points: NDArray[np.float64]) -> Field:
    """Distance to an open polyline, (n, 2)."""
    nearest = np.full(u.shape, np.inf, np.float32)
    for (x, y), (end_x, end_y) in pairwise(points.astype(np.float32)):
        dx, dy = end_x - x, end_y - y
        t = np.clip(((u - x) * dx + (v - y) * dy) / (dx * dx + dy * dy + np.float32(1e-12)), 0, 1)
        nearest = np.minimum(nearest, length(u - x - t * dx, v - y - t * dy))
    return nearest
