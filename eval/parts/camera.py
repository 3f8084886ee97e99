"""Light and camera: from a relief to the eight-bit picture."""

from dataclasses import dataclass
from math import cos, hypot, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.parts.surface import Field, Surface, rgb

SUPERSAMPLING = 2
"""Relief pixels to a camera pixel, per axis; `_binned` relies on it being 2."""


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
    light = _blurred(_binned(_light(surface, shot)), shot.blur)
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
    """Lambert and mirror reflection of one lamp, cast shadows and dimmed corners, linear RGB."""
    height = surface.height
    flat = cos(shot.elevation)
    lx, ly, lz = flat * cos(shot.azimuth), flat * sin(shot.azimuth), sin(shot.elevation)
    slope_x, slope_y = _slope(height, surface.pixel), _slope(height.T, surface.pixel).T
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    toward = (np.float32(lx) * slope_x + np.float32(ly) * slope_y) / length
    upward = 1 / length
    half = sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
    mirror = np.maximum((np.float32(lz + 1) * upward - toward) * np.float32(1 / half), 0)
    diffuse = np.maximum(np.float32(lz) * upward - toward, 0)
    mirror *= mirror
    mirror *= mirror
    sharp = mirror * mirror
    sharp *= sharp
    sharp *= sharp
    sheen = 0.25 * mirror + 2.2 * sharp  # powers 4 and 32 of the cosine: a wide sheen and a highlight
    # Shadows are soft: the camera's own resolution is enough for them.
    coarse = _binned(height)
    lit = _unshadowed(coarse, (lx, ly, lz), surface.pixel * SUPERSAMPLING)
    ambient = _repeated(0.38 * _openness(coarse))
    lit = _repeated(lit)
    shade = ambient + 0.78 * diffuse * lit
    sheen *= surface.gloss * (0.25 + 0.75 * lit)
    light = surface.albedo * shade
    light += sheen
    return light


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


def _slope(height: Field, pixel: float) -> Field:
    """Central difference along the last axis."""
    slope = np.empty_like(height)
    slope[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * np.float32(0.5 / pixel)
    slope[:, 0], slope[:, -1] = slope[:, 1], slope[:, -2]
    return slope


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
