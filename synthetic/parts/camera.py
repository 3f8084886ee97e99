"""Light and camera: from a relief to the eight-bit picture."""

from dataclasses import dataclass
from math import cos, hypot, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthetic.parts.surface import Field, Surface, rgb

SUPERSAMPLING = 2
"""Relief pixels to a camera pixel, per axis; `_binned` relies on it being 2."""


_BAND = 16  # camera rows lit at a time

LAMP_AZIMUTH = radians(235)
"""Where the lamp stands on average: at the upper left."""


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
            azimuth=rng.normal(LAMP_AZIMUTH, 0.25),
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
    light = _blurred(_light(surface, shot), shot.blur)
    h, w = light.shape[1:]
    x = (np.arange(w, dtype=np.float32) - w / 2) / min(h, w) - shot.centre[0]
    y = (np.arange(h, dtype=np.float32) - h / 2) / min(h, w) - shot.centre[1]
    falloff = shot.gain * (1 - shot.vignette * (x * x + (y * y)[:, None]))
    light *= falloff.astype(np.float32) * rgb(shot.white)
    display = 255 * np.clip(light, 0, 1) ** np.float32(1 / 2.2)
    rng = np.random.default_rng(shot.seed)
    grain = rng.standard_normal(display.shape, dtype=np.float32) * np.float32(shot.noise)
    # Read noise plus shot noise, which grows with the square root of the signal.
    display += grain * np.sqrt(0.3 + display * np.float32(1 / 182))
    return np.clip(display + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _light(surface: Surface, shot: Shot) -> Field:
    """Light that reaches the camera, (3, h, w), linear RGB, at the camera's resolution."""
    flat = cos(shot.elevation)
    lamp = flat * cos(shot.azimuth), flat * sin(shot.azimuth), sin(shot.elevation)
    coarse = _binned(surface.height)  # shadows are soft: the camera's own resolution is enough for them
    lit = _unshadowed(coarse, lamp, surface.pixel * SUPERSAMPLING)
    ambient = 0.38 * _openness(coarse)
    light = np.empty((3, *coarse.shape), np.float32)
    height = np.pad(surface.height, 1, "edge")
    for top in range(0, len(coarse), _BAND):  # bands of rows stay in the cache
        rows = slice(top, min(top + _BAND, len(coarse)))
        fine = slice(rows.start * SUPERSAMPLING, rows.stop * SUPERSAMPLING)
        diffuse, sheen = _reflected(height[fine.start : fine.stop + 2], surface.pixel, lamp)
        seen = _repeated(lit[rows])
        sheen *= surface.gloss[fine] * (0.25 + 0.75 * seen)
        shade = _repeated(ambient[rows]) + 0.78 * diffuse * seen
        light[:, rows] = _binned(surface.albedo[:, fine] * shade + sheen)
    return light


def _reflected(height: Field, pixel: float, lamp: tuple[float, float, float]) -> tuple[Field, Field]:
    """Lambert and mirror reflection of the lamp, without the rim of one pixel that `height` has around."""
    lx, ly, lz = (np.float32(part) for part in lamp)
    slope_x = (height[1:-1, 2:] - height[1:-1, :-2]) * np.float32(0.5 / pixel)
    slope_y = (height[2:, 1:-1] - height[:-2, 1:-1]) * np.float32(0.5 / pixel)
    upward = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    toward = (lx * slope_x + ly * slope_y) * upward
    half = sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
    mirror = np.maximum(((lz + 1) * upward - toward) * np.float32(1 / half), 0)
    mirror *= mirror
    mirror *= mirror
    sharp = mirror * mirror
    sharp *= sharp
    sharp *= sharp
    # Powers 4 and 32 of the cosine: a wide sheen and a sharp highlight.
    return np.maximum(lz * upward - toward, 0), 0.25 * mirror + 2.2 * sharp


def _unshadowed(height: Field, lamp: tuple[float, float, float], pixel: float) -> Field:
    """1 where the lamp is seen, 0 in the shadow of something higher."""
    flat = hypot(lamp[0], lamp[1])
    rise = lamp[2] / flat
    lit = np.ones_like(height)
    for reach in (0.006, 0.012, 0.02, 0.03, 0.045):
        dx, dy = round(reach * lamp[0] / flat / pixel), round(reach * lamp[1] / flat / pixel)
        blocked = (_shifted(height, dx, dy) - height - reach * rise) / (0.3 * reach)
        np.minimum(lit, 0.5 - blocked, out=lit)
    return np.clip(lit, 0, 1)


def _openness(height: Field) -> Field:
    """Part of the sky seen: less beside a step upwards (ambient occlusion)."""
    h, w = height.shape
    small = Image.fromarray(height).resize((w // 4, h // 4), Image.Resampling.BOX)
    around = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC))
    return 1 - np.clip((around - height) * 14, 0, 0.6)


def _binned(field: Field) -> Field:
    """Mean over each camera pixel."""
    rows = field[..., 0::2, :] + field[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * np.float32(0.25)


def _repeated(field: Field) -> Field:
    return field.repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)


def _shifted(field: Field, dx: int, dy: int) -> Field:
    """The field looked up (dx, dy) pixels further on, edges repeated."""
    h, w = field.shape
    rows = np.clip(np.arange(h) + dy, 0, h - 1)
    columns = np.clip(np.arange(w) + dx, 0, w - 1)
    return field[rows][:, columns]


def _blurred(light: Field, weight: float) -> Field:
    """Three-tap blur of (3, h, w) along both axes, edges repeated."""
    centre, beside = np.float32(1 - 2 * weight), np.float32(weight)
    tall = np.pad(light, ((0, 0), (1, 1), (0, 0)), "edge")
    light = centre * light + beside * (tall[:, :-2] + tall[:, 2:])
    wide = np.pad(light, ((0, 0), (0, 0), (1, 1)), "edge")
    return centre * light + beside * (wide[:, :, :-2] + wide[:, :, 2:])
