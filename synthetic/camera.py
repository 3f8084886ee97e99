"""Light and camera: from a relief to an 8-bit picture."""

from math import cos, hypot, radians, sin, sqrt

import numpy as np

from synthetic.relief import Field, Pixels, Relief, rgb

FINER = 2
"""Relief pixels per camera pixel, along each axis."""


def photograph(relief: Relief, rng: np.random.Generator, spread: float = 1.0) -> Pixels:
    """Light a relief with one lamp and photograph it.

    `rng` draws lamp, exposure, white balance, vignette and noise, in an order that does not depend on the relief.
    `spread` says how much they vary; 1 is an inspection line. Returns (h, w, 3), sRGB, at 1/FINER of the resolution.
    """
    azimuth, elevation = rng.normal(radians(235), 0.3 * spread), radians(rng.uniform(54 - 8 * spread, 54 + 8 * spread))
    warmth, gain = rng.normal(0, 0.03 * spread), rng.uniform(1 - 0.12 * spread, 1 + 0.12 * spread)
    vignette, noise = rng.uniform(0.1, 0.3), np.float32(rng.uniform(1.0, 2.2))  # noise: grey levels at mid grey
    lamp = (cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation))
    diffuse, sheen = _reflected(relief, lamp)
    lit = _unshadowed(relief, lamp)
    light = relief.albedo * (0.38 + 0.78 * diffuse * lit)
    light += relief.gloss * sheen * (0.25 + 0.75 * lit)
    light *= np.float32(gain) * (1 - np.float32(vignette) * (relief.x * relief.x + (relief.y * relief.y)[:, None]))
    h, w = (side // FINER for side in relief.shape)
    seen = light.reshape(3, h, FINER, w, FINER).mean((2, 4)) * rgb((1 + warmth, 1, 1 - warmth))
    display = 255 * np.clip(seen, 0, 1) ** np.float32(1 / 2.2)
    grain = rng.standard_normal(display.shape, dtype=np.float32) * noise
    display += grain * np.sqrt(0.3 + display / 182)  # read noise, and shot noise that grows with the signal
    return np.clip(display + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _reflected(relief: Relief, lamp: tuple[float, float, float]) -> tuple[Field, Field]:
    """Lambertian and mirror reflection of the lamp, each (h, w)."""
    lx, ly, lz = (np.float32(part) for part in lamp)
    slope_y, slope_x = np.gradient(relief.height, np.float32(relief.pixel))
    upward = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    toward = (lx * slope_x + ly * slope_y) * upward
    half = sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
    mirror = np.maximum(((lz + 1) * upward - toward) / np.float32(half), 0)
    wide = np.square(np.square(mirror))
    return np.maximum(lz * upward - toward, 0), 0.25 * wide + 2.2 * np.square(np.square(np.square(wide)))


def _unshadowed(relief: Relief, lamp: tuple[float, float, float]) -> Field:
    """1 where the lamp is visible, 0 in the shadow of something higher."""
    rows, columns = (np.arange(side) for side in relief.shape)
    flat, lit = hypot(*lamp[:2]), np.ones_like(relief.height)
    for reach in (0.006, 0.012, 0.02, 0.03, 0.045):
        dx, dy = (round(reach * part / flat / relief.pixel) for part in lamp[:2])
        towards = relief.height[np.clip(rows + dy, 0, rows[-1])][:, np.clip(columns + dx, 0, columns[-1])]
        blocked = (towards - relief.height - np.float32(reach * lamp[2] / flat)) / np.float32(0.3 * reach)
        np.minimum(lit, 0.5 - blocked, out=lit)
    return np.clip(lit, 0, 1)
