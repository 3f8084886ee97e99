"""Light and camera: from a relief to the eight-bit picture."""

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.parts.surface import Field, Surface

SUPERSAMPLING = 2
"""Relief pixels to a camera pixel, per axis."""


@dataclass(frozen=True)
class Shot:
    """One photograph's light and camera, everything that has nothing to do with the part itself."""

    azimuth: float  # radians, where the lamp stands
    elevation: float
    gain: float
    white: tuple[float, float, float]
    vignette: float
    centre: tuple[float, float]
    blur: float  # weight of each neighbour in the three-tap optical blur
    noise: float  # standard deviation at mid grey, in grey levels of 255
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Shot":
        """Draw the small changes of a real inspection line."""
        warmth = rng.normal(0, 0.02)
        return cls(
            azimuth=radians(rng.normal(235, 14)),
            elevation=radians(rng.uniform(48, 60)),
            gain=rng.uniform(0.92, 1.08),
            white=(1 + warmth, 1.0, 1 - warmth),
            vignette=rng.uniform(0.1, 0.25),
            centre=(rng.normal(0, 0.08), rng.normal(0, 0.08)),
            blur=rng.uniform(0.02, 0.14),
            noise=rng.uniform(1.0, 2.2),
            seed=int(rng.integers(2**63)),
        )


def photograph(surface: Surface, shot: Shot) -> NDArray[np.uint8]:
    """Light the relief and expose it.

    Args:
        surface: The relief, SUPERSAMPLING times finer than the picture.
        shot: Light and camera; the same shot gives the same noise.

    Returns:
        (h, w, 3) uint8, sRGB.
    """
    light = _light(surface, shot)
    h, w = (side // SUPERSAMPLING for side in surface.shape)
    light = light.reshape(h, SUPERSAMPLING, w, SUPERSAMPLING, 3).mean((1, 3))
    for axis in (0, 1):
        light = _three_taps(light, shot.blur, axis)
    x = (np.arange(w, dtype=np.float32) - w / 2) / min(h, w) - shot.centre[0]
    y = (np.arange(h, dtype=np.float32) - h / 2) / min(h, w) - shot.centre[1]
    falloff = 1 - shot.vignette * (x * x + (y * y)[:, None])
    light *= (shot.gain * falloff)[..., None] * np.float32(shot.white)
    display = 255 * np.clip(light, 0, 1) ** (1 / 2.2)
    rng = np.random.default_rng(shot.seed)
    grain = rng.standard_normal(display.shape, dtype=np.float32)
    # Read noise plus shot noise, which grows with the square root of the signal.
    display += grain * shot.noise * np.sqrt(0.3 + display / 182)
    return np.clip(display + 0.5, 0, 255).astype(np.uint8)


def _light(surface: Surface, shot: Shot) -> Field:
    """Lambert and mirror reflection of one lamp, cast shadows and dimmed corners, linear RGB."""
    height = surface.height
    slope_y, slope_x = np.gradient(height, surface.pixel)
    flat = cos(shot.elevation)
    lx, ly, lz = flat * cos(shot.azimuth), flat * sin(shot.azimuth), sin(shot.elevation)
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    diffuse = np.maximum((lz - lx * slope_x - ly * slope_y) / length, 0)
    half = np.sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
    mirror = np.maximum(((lz + 1) - lx * slope_x - ly * slope_y) / (length * half), 0)
    mirror = mirror**4
    sheen = 0.25 * mirror + 2.2 * mirror**8  # powers 4 and 32: a wide sheen and a sharp highlight
    lit = _unshadowed(height, (lx, ly, lz), surface.pixel)
    ambient = 0.38 * _openness(height)
    shade = ambient + 0.78 * diffuse * lit
    return surface.albedo * shade[..., None] + (surface.gloss * sheen * (0.25 + 0.75 * lit))[..., None]


def _unshadowed(height: Field, lamp: tuple[float, float, float], pixel: float) -> Field:
    """1 where the lamp is seen, 0 in the shadow of something higher."""
    lx, ly, lz = lamp
    rise = lz / np.hypot(lx, ly)
    lit = np.ones_like(height)
    for reach in (0.006, 0.012, 0.02, 0.03, 0.045):
        dx, dy = round(reach * lx / np.hypot(lx, ly) / pixel), round(reach * ly / np.hypot(lx, ly) / pixel)
        blocked = (_shifted(height, dx, dy) - height - reach * rise) / (0.3 * reach)
        np.minimum(lit, 1 - np.clip(blocked + 0.5, 0, 1), out=lit)
    return lit


def _openness(height: Field) -> Field:
    """Part of the sky seen: less beside a step upwards (ambient occlusion)."""
    h, w = height.shape
    small = Image.fromarray(height).resize((w // 8, h // 8), Image.Resampling.BOX)
    around = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC))
    return 1 - np.clip((around - height) * 14, 0, 0.6)


def _shifted(field: Field, dx: int, dy: int) -> Field:
    """The field looked up (dx, dy) pixels further on, edges repeated."""
    h, w = field.shape
    rows = np.clip(np.arange(h) + dy, 0, h - 1)
    columns = np.clip(np.arange(w) + dx, 0, w - 1)
    return field[rows][:, columns]


def _three_taps(light: Field, weight: float, axis: int) -> Field:
    before = np.take(light, np.r_[0, 0 : light.shape[axis] - 1], axis)
    after = np.take(light, np.r_[1 : light.shape[axis], light.shape[axis] - 1], axis)
    return (1 - 2 * weight) * light + weight * (before + after)
