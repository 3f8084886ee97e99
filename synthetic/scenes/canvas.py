"""The picture being painted, and the noise and light that make it look natural."""

import colorsys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Field = NDArray[np.float32]
Area = tuple[slice, slice]


class Canvas:
    """A square picture, (size, size, 3) float32 linear light, and the random stream that paints it.

    Coordinates run from 0 to 1, x to the right and y down, and address pixel centres.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """Start with a black picture."""
        self.size = size
        self.rng = rng
        self.pixel = 1 / size
        self.rgb = np.zeros((size, size, 3), np.float32)
        line = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = line[None, :], line[:, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[Area, Field, Field]:
        """Return the pixels of a rectangle, as slices and as their x (1, w) and y (h, 1)."""
        low_x, high_x = (min(max(round(float(v) * self.size), 0), self.size) for v in (left, right))
        low_y, high_y = (min(max(round(float(v) * self.size), 0), self.size) for v in (top, bottom))
        area = (slice(low_y, max(high_y, low_y)), slice(low_x, max(high_x, low_x)))
        return area, self.x[:, area[1]], self.y[area[0]]

    def cover(self, distance: Field, softness: float = 1.0) -> Field:
        """Coverage in [0, 1] from a signed distance (negative inside); `softness` pixels wide."""
        return np.clip(0.5 - distance / (self.pixel * softness), 0, 1)

    def over(self, area: Area, alpha: Field, colour: Field) -> None:
        """Paint a colour (3,) or (h, w, 3) over an area."""
        under = self.rgb[area]
        under += alpha[..., None] * (colour - under)

    def blur(self, radius: float) -> None:
        """Defocus everything painted so far; radius relative to the picture."""
        if radius * self.size < 0.3:
            return
        picture = Image.fromarray(display(self.rgb)).filter(ImageFilter.GaussianBlur(radius * self.size))
        self.rgb = (np.asarray(picture, np.float32) / 255) ** 2

    def noise(self, slope: float = 1.0) -> Field:
        """Periodic random field (size, size), unit variance, amplitude falling as 1/frequency**slope."""
        return fractal(self.rng, self.size, slope)

    def ridge(self, slope: float = 1.2) -> Field:
        """Random curve (1, size), unit variance."""
        half = self.size + 1
        spectrum = self.rng.standard_normal((2, half), dtype=np.float32)
        spectrum = (spectrum[0] + 1j * spectrum[1]) / np.maximum(np.arange(half), 1) ** slope
        spectrum[0] = 0
        curve = np.fft.irfft(spectrum)[: self.size]
        return (curve / curve.std()).astype(np.float32)[None]


def display(rgb: Field) -> NDArray[np.uint8]:
    """Linear light to eight bits, gamma 2."""
    return (255 * np.sqrt(np.clip(rgb, 0, 1)) + 0.5).astype(np.uint8)


@lru_cache(maxsize=64)
def _falloff(size: int, slope: float) -> Field:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    frequency[0, 0] = np.inf
    return (frequency**-slope).astype(np.float32)


def fractal(rng: np.random.Generator, size: int, slope: float) -> Field:
    """Periodic random field (size, size), unit variance, amplitude falling as 1/frequency**slope."""
    falloff = _falloff(size, slope)
    spectrum = rng.standard_normal((2, *falloff.shape), dtype=np.float32)
    field = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * falloff, s=(size, size))
    return (field / field.std()).astype(np.float32)


def sample(tile: Field, u: Field, v: Field) -> Field:
    """Look a periodic tile up at (u, v) in tiles, bilinearly."""
    n = tile.shape[0]
    u, v = np.float32(n) * u, np.float32(n) * v
    left, top = np.floor(u), np.floor(v)
    fu, fv = (u - left).astype(np.float32), (v - top).astype(np.float32)
    left, top = left.astype(np.int32) % n, top.astype(np.int32) % n
    right, below = (left + 1) % n, (top + 1) % n * n
    top *= n
    flat = tile.ravel()
    upper, lower = flat.take(top + left), flat.take(below + left)
    upper = upper + fu * (flat.take(top + right) - upper)
    lower = lower + fu * (flat.take(below + right) - lower)
    return upper + fv * (lower - upper)


def lit(height: Field, light: float, strength: float) -> Field:
    """Shade of a periodic relief under slanting light from the direction `light` (radians), about 1."""
    dx, dy = height - np.roll(height, 1, 1), height - np.roll(height, 1, 0)
    slope = np.float32(np.cos(light)) * dx + np.float32(np.sin(light)) * dy
    return np.clip(1 - np.float32(strength) * slope / (slope.std() + 1e-6), 0.15, 2.2)


def ramp(x: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def colour(hue: float, saturation: float, value: float) -> Field:
    """Linear RGB of a hue (turns), saturation and value as displayed."""
    rgb = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.square(np.array(rgb, np.float32))


def mix(one: Field, other: Field, amount: Field) -> Field:
    """Blend two colours by a field (h, w), giving (h, w, 3)."""
    return one + amount[..., None] * (other - one)
