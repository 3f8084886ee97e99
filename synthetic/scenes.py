"""Render natural-looking scenes to pre-train on where no photographs are at hand.

DIR gets 000000.jpg and so on, without labels: a folder for --data.train. Each scene is a "dead leaves" image, the
classic model of natural image statistics: textured things of a few species, with power-law sizes, lie on top of each
other. They have relief, so that the lamp shades them and they cast shadows. For released weights use photographs.

The same arguments give the same bytes, and the first scenes of a longer set are those of a shorter one. Running the
command again does nothing.
"""

import colorsys
import sys
from math import pi
from typing import NamedTuple

import numpy as np

from synthetic.camera import FINER, photograph
from synthetic.folder import Arguments, Files, Options, main
from synthetic.relief import Field, Frame, Patch, Pixels, Relief, blot, box, length, mix, ramp

_SMALLEST, _LARGEST = 0.03, 0.45  # radii, as fractions of the picture's side
_HUES = (0.02, 0.07, 0.09, 0.12, 0.16, 0.22, 0.28, 0.35, 0.52, 0.58, 0.62, 0.95)  # earth, foliage, sky, fruit

OPTIONS: Options = {
    "count": (400, 1, "how many scenes"),
    "size": (160, 32, "side in pixels"),
    "seed": (0, 0, "another seed gives other scenes"),
}


class Species(NamedTuple):
    """What the things of one species have in common."""

    shape: str
    stretch: float  # length over width
    relief: float  # height over half the width
    gloss: float
    colours: tuple[Field, Field]
    texture: Field  # (256, 256), about unit variance
    scale: float  # size of a thing relative to its texture
    stripes: float  # 0 for none


def render(index: int, *, seed: int, size: int) -> Pixels:
    """Render the scene with number `index`, (size, size, 3) uint8, sRGB; a function of the arguments alone."""
    rng = np.random.default_rng([seed, index])
    relief = Relief(size * FINER, size * FINER)
    ground, *species = (_species(rng) for _ in range(rng.integers(3, 7)))
    everywhere = relief.patch(Frame(angle=rng.uniform(0, 2 * pi)), 0.8, 0.8)
    relief.paint(everywhere, np.float32(1), _coloured(ground, everywhere, 0.2, rng), gloss=ground.gloss)
    relief.height += 0.004 * relief.noise(rng, 0.08, 3)
    count, depth = int(rng.integers(50, 200)), rng.uniform(0.5, 1.3) * rng.integers(2)
    # A density of radii that falls as 1/r**3 makes the statistics of the scene independent of scale.
    radii = (_LARGEST**-2 + rng.random(count) * (_SMALLEST**-2 - _LARGEST**-2)) ** -0.5
    places = rng.uniform(-0.5, 0.5, (count, 2))
    if depth:  # things higher up in the picture are farther away: smaller, and behind the others
        places = places[np.argsort(places[:, 1])]
        radii *= np.clip(1 + depth * places[:, 1], 0.3, 2)
    for (x, y), radius in zip(places.tolist(), radii.tolist(), strict=True):
        _lay(relief, species[rng.integers(len(species))], Frame(x, y, rng.uniform(0, 2 * pi)), radius, rng)
    return photograph(relief, rng, spread=3.0)


def _species(rng: np.random.Generator) -> Species:
    hue = rng.choice(_HUES) + rng.normal(0, 0.015)
    first = _colour(hue, rng.beta(2, 4), rng.uniform(0.35, 0.9))
    second = _colour(hue + rng.normal(0, 0.06), rng.beta(2, 4), rng.uniform(0.15, 0.85))
    shape = str(rng.choice(("pebble", "slab", "leaf", "stick"), p=(0.4, 0.2, 0.25, 0.15)))
    low, high = {"pebble": (1, 1.6), "slab": (1, 2.2), "leaf": (1.8, 3.2), "stick": (6, 12)}[shape]
    flat, tall = (0.1, 0.7) if shape in ("pebble", "stick") else (0.03, 0.15)
    texture = Relief(256, 256).noise(rng, rng.uniform(0.03, 0.3), octaves=4)
    look = (first, second), texture, rng.uniform(0.4, 1), float(rng.choice((0, 0, 0, 14)))
    return Species(shape, rng.uniform(low, high), rng.uniform(flat, tall), float(rng.choice((0, 0.05, 0.25))), *look)


def _lay(relief: Relief, kind: Species, frame: Frame, radius: float, rng: np.random.Generator) -> None:
    """Put one thing on top of what is there."""
    half_u, half_v = radius, radius / kind.stretch
    patch = relief.patch(frame, 1.2 * half_u, 1.5 * half_v)
    edge = _edge(kind.shape, patch.u, patch.v, half_u, half_v, rng)
    rim = half_v if kind.shape in ("pebble", "stick") else 0.25 * half_v
    height = np.median(relief.height[patch.area]) + np.sqrt(ramp(-edge, -0.1 * rim, 0.9 * rim)) * kind.relief * half_v
    if kind.shape == "leaf":  # the midrib
        height -= 0.06 * half_v * np.exp(-np.square(patch.v / np.float32(0.06 * half_v)))
    relief.paint(patch, patch.cover(edge), _coloured(kind, patch, radius, rng), height=height, gloss=kind.gloss)


def _edge(shape: str, u: Field, v: Field, half_u: float, half_v: float, rng: np.random.Generator) -> Field:
    """Signed distance to the outline of one thing."""
    if shape == "pebble":
        return blot(u * np.float32(half_v / half_u), v, half_v, rng, roughness=0.25)
    if shape == "slab":
        return box(u, v, half_u, half_v, rng.uniform(0, 0.5) * half_v)
    if shape == "stick":
        return box(u, v - np.float32(rng.normal(0, 0.3 * half_v / half_u**2)) * u * u, half_u, half_v, half_v)
    bow = np.float32((half_u * half_u - half_v * half_v) / (2 * half_v))  # a leaf: two arcs that meet at the tips
    return length(u, np.abs(v) + bow) - bow - np.float32(half_v)


def _coloured(kind: Species, patch: Patch, radius: float, rng: np.random.Generator) -> Field:
    """Colours of one thing, (3, h, w): its species' pattern, from another place and a little brighter or darker."""
    step = np.float32(128 * kind.scale / radius)
    row, column = ((step * x).astype(np.int32) + rng.integers(510, dtype=np.int32) for x in (patch.v, patch.u))
    value = kind.texture[np.abs(row % 510 - 255), np.abs(column % 510 - 255)]  # mirrored at its borders
    if kind.stripes:
        value = np.sin(patch.v * np.float32(kind.stripes / radius) + value)
    return mix(*kind.colours, ramp(value, -2, 2)) * np.float32(rng.lognormal(0, 0.15))


def _colour(hue: float, saturation: float, value: float) -> Field:
    """Linear RGB, (3,), of a hue in turns, a saturation and a displayed value."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) ** np.float32(2.2)


def files(arguments: Arguments) -> Files:
    """Yield the scenes."""
    for index in range(arguments["count"]):
        yield f"{index:06d}.jpg", render(index, seed=arguments["seed"], size=arguments["size"])


if __name__ == "__main__":
    sys.exit(main("synthetic.scenes", __doc__, OPTIONS, files))
