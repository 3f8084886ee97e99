"""A butter biscuit on a steel belt: scalloped edge, docker holes, baked crumb."""

from math import pi

import numpy as np

from synthetic.relief import Frame, Relief, blot, box, length, mix, ramp, rgb

ASPECT = 1.1  # width over height
HALF = (0.38, 0.29)  # half the area that defects land on, in the frame that `draw` returns
BARE = (0.80, 0.62, 0.36)  # albedo under the surface


def draw(relief: Relief, rng: np.random.Generator, missing: np.random.Generator | None) -> Frame:
    """Draw one biscuit; `rng` draws pose, bake and crumb, and `missing`, unless None, the piece that is broken off."""
    frame = Frame(*rng.normal(0, 0.015, 2), rng.normal(0, 0.08), rng.uniform(0.96, 1.04))
    brushed = relief.noise(rng, 0.006, stretch=25) + 0.5 * relief.noise(rng, 0.3)
    relief.albedo[:] = (0.30 + 0.025 * brushed) * rgb((0.97, 1.0, 1.05))
    relief.height += 0.0004 * brushed
    bake, sides = rng.uniform(0.2, 0.8), rng.normal(0, 0.3, 2).astype(np.float32)
    crumb, pores = relief.noise(rng, 0.05, 4), relief.noise(rng, 0.011)
    patch = relief.patch(frame, HALF[0] + 0.05, HALF[1] + 0.05)
    u, v, crumb, pores = patch.u, patch.v, crumb[patch.area], pores[patch.area]
    outline = box(u, v, HALF[0] + 0.02, HALF[1] + 0.02, 0.03)
    along = np.where(np.abs(u) / (HALF[0] + 0.02) > np.abs(v) / (HALF[1] + 0.02), v, u)
    edge = outline - 0.008 * np.cos(along * np.float32(2 * pi / 0.0475))
    brown = 0.45 * bake + 0.35 * (1 - ramp(-edge, 0, 0.13)) + 0.12 * crumb + sides[0] * u + sides[1] * v
    colour = mix((0.66, 0.42, 0.16), (0.27, 0.10, 0.025), np.clip(brown, 0, 1)) * (1 + 0.06 * pores)
    if missing is not None:
        radius = float(np.clip(missing.lognormal(-2.7, 0.4), 0.04, 0.16))
        x, y = missing.choice([-1, 1], 2) * HALF * np.array([1, missing.choice([missing.uniform(0, 0.8), 1])])
        edge = np.maximum(edge, -blot(u - np.float32(x), v - np.float32(y), radius, missing) - 0.006 * crumb)
    groove = np.exp(-np.square((outline + 0.04) / 0.006))
    height = 0.045 * np.sqrt(ramp(-edge, 0, 0.04)) + 0.0022 * crumb + 0.0014 * pores - 0.005 * groove
    holes = np.zeros_like(edge)
    for row in range(4):
        for column in range(6):
            x, y = rng.normal(((column - 2.5) * 0.118 + (row % 2 - 0.5) * 0.03, (row - 1.5) * 0.125), 0.003)
            holes = np.maximum(holes, 1 - ramp(length(u - np.float32(x), v - np.float32(y)), 0.007, 0.015))
    colour = mix(colour, (0.14, 0.06, 0.02), holes)
    relief.paint(patch, patch.cover(edge), colour, height=height - 0.02 * holes, gloss=0.03)
    return frame
