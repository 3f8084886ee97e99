"""A green circuit board on a dark mat. Everything on it is made of slabs: chips, capacitors, pins, pads and vias."""

from math import pi
from typing import NamedTuple

import numpy as np

from synthetic.relief import Colour, Frame, Relief, box, polyline, ramp, rgb

ASPECT = 1.4  # width over height
HALF = (0.57, 0.38)  # half the area that defects land on, in the frame that `draw` returns
BARE = (0.62, 0.55, 0.40)  # albedo under the surface

_SILVER, _GOLD, _BLACK = (0.62, 0.62, 0.64), (0.70, 0.47, 0.14), (0.022, 0.022, 0.026)
_SILK, _TIN, _BROWN = (0.75, 0.78, 0.74), (0.48, 0.44, 0.38), (0.36, 0.17, 0.06)


class Slab(NamedTuple):
    """A block with rounded corners and a bevelled top, in its component's frame; `height` is above the board."""

    u: float
    v: float
    half_u: float
    half_v: float
    colour: Colour
    height: float
    gloss: float = 0.1
    corner: float = 0.004


def _disc(u: float, v: float, radius: float, colour: Colour, height: float, gloss: float = 0.1) -> Slab:
    return Slab(u, v, radius, radius, colour, height, gloss, radius)


def _chip(half_u: float, half_v: float, pins: int) -> list[Slab]:
    rows = [(pin - (pins - 1) / 2) * 1.8 * half_v / pins for pin in range(pins)]
    legs = [Slab(s * half_u, v, 0.016, 0.5 * half_v / pins, _SILVER, 0.008, 0.4) for v in rows for s in (-0.86, 0.86)]
    mark = _disc(-0.5 * half_u, -0.75 * half_v, 0.007, (0.13, 0.13, 0.13), 0.027)
    return [*legs, Slab(0, 0, 0.74 * half_u, 0.97 * half_v, _BLACK, 0.03, 0.06), mark]


_ENDS = Slab(0, 0, 0.031, 0.015, _SILVER, 0.011, 0.4)
_KINDS: dict[str, tuple[float, float, list[Slab]]] = {  # half the size of its place, and what is soldered there
    "chip": (0.1, 0.1, _chip(0.1, 0.1, 8)),
    "small chip": (0.075, 0.06, _chip(0.075, 0.06, 4)),
    "can": (0.062, 0.062, [Slab(0, 0, 0.058, 0.058, _BLACK, 0.012), _disc(0, 0, 0.052, _SILVER, 0.07, 0.35),
                           Slab(0.028, 0, 0.008, 0.038, _BLACK, 0.07)]),
    "crystal": (0.075, 0.035, [Slab(0, 0, 0.068, 0.029, _SILVER, 0.035, 0.45, 0.029)]),
    "resistor": (0.033, 0.018, [_ENDS, Slab(0, 0, 0.018, 0.015, _BLACK, 0.012)]),
    "ceramic": (0.033, 0.018, [_ENDS, Slab(0, 0, 0.018, 0.015, _BROWN, 0.02)]),
}  # fmt: skip
_PLACES: tuple[tuple[str, float, float, float], ...] = (  # kind, x, y, quarter turns
    ("chip", -0.12, -0.03, 0), ("small chip", 0.25, -0.02, 0), ("small chip", 0.25, 0.17, 0),
    ("can", -0.45, -0.19, 0), ("can", -0.45, 0, 0), ("crystal", -0.42, 0.17, 0),
    *(("resistor", -0.26 + 0.085 * n, -0.3, 1) for n in range(5)),
    *(("resistor", 0.45, -0.12 + 0.085 * n, 0) for n in range(5)),
    *(("ceramic", 0.08, -0.17 + 0.1 * n, 1) for n in range(4)),
    *(("ceramic", -0.25 + 0.11 * n, 0.2, 0) for n in range(3)),
    *(("ceramic", 0.25 + 0.1 * n, -0.3, 0) for n in range(3)),
)  # fmt: skip
_TRACES = (
    *([(-0.2 + 0.03 * n, -0.1), (-0.2 + 0.03 * n, -0.2), (-0.26 + 0.05 * n, -0.28)] for n in range(7)),
    *([(-0.05, 0.05 - 0.03 * n), (0.12, 0.14 - 0.06 * n), (0.2, 0.14 - 0.06 * n)] for n in range(5)),
    *([(0.3, -0.05 + 0.06 * n), (0.38, -0.09 + 0.07 * n), (0.45, -0.09 + 0.07 * n)] for n in range(5)),
    *([(-0.2 + 0.04 * n, 0.08), (-0.2 + 0.04 * n, 0.25), (-0.14 + 0.05 * n, 0.33)] for n in range(6)),
    [(-0.4, -0.19), (-0.3, -0.1), (-0.2, -0.1)], [(-0.4, 0.0), (-0.2, 0.0)], [(-0.53, -0.3), (-0.53, 0.3)],
)  # fmt: skip
_FIXED = [  # vias, mounting holes and the header
    *(slab for x, y in ((-0.53, 0.1), (-0.3, -0.1), (-0.33, 0.27), (0.02, -0.3), (0.2, -0.22), (0.54, -0.2))
      for slab in (_disc(x, y, 0.011, _GOLD, 0.001, 0.3), _disc(x, y, 0.005, _BLACK, 0))),
    *(slab for x in (-0.555, 0.555) for y in (-0.365, 0.365)
      for slab in (_disc(x, y, 0.033, _GOLD, 0.001, 0.3), _disc(x, y, 0.02, _BLACK, -0.02))),
    Slab(0.12, 0.335, 0.25, 0.028, _BLACK, 0.035),
    *(Slab(-0.105 + 0.05 * pin, 0.335, 0.009, 0.009, _GOLD, 0.06, 0.5) for pin in range(10)),
]  # fmt: skip


def draw(relief: Relief, rng: np.random.Generator, missing: np.random.Generator | None) -> Frame:
    """Draw one board; `rng` draws pose and placement, and `missing`, unless None, the component that is not there."""
    frame = Frame(*rng.normal(0, 0.012, 2), rng.normal(0, 0.03), rng.uniform(0.97, 1.03))
    grain = relief.noise(rng, 0.012)
    relief.albedo[:] = (0.055 + 0.006 * (grain + relief.noise(rng, 0.3))) * rgb((0.95, 1.0, 1.12))
    relief.height += 0.0006 * grain
    mask = np.float32(rng.uniform(0.85, 1.15)) * rgb((0.020, 0.135, 0.060))
    _solder(relief, frame, [Slab(0, 0, 0.6, 0.41, mask, 0, 0.05, 0.025)])
    for points in map(np.array, _TRACES):
        middle, reach = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0) / 2 + 0.01
        patch = relief.patch(frame.at(*middle), *reach)
        line = patch.cover(polyline(patch.u, patch.v, points - middle) - 0.0042)
        relief.paint(patch, line, mask * np.float32(1.75), lift=0.0008)
    _solder(relief, frame, _FIXED)
    gone = missing.choice(list(_KINDS)) if missing else None  # the kind first: most components are small ones
    absent = missing.choice([n for n, place in enumerate(_PLACES) if place[0] == gone]) if missing else -1
    for number, (kind, x, y, turns) in enumerate(_PLACES):
        half_u, half_v, slabs = _KINDS[kind]
        place = frame.at(x, y, turns * pi / 2)
        patch = relief.patch(place, half_u + 0.015, half_v + 0.015)
        outline = np.abs(box(patch.u, patch.v, half_u + 0.01, half_v + 0.01)) - 0.0018
        relief.paint(patch, 0.9 * patch.cover(outline), _SILK)
        pads = [Slab(s * half_u, 0, 0.22 * half_u, 0.7 * half_v, _TIN, 0.001, 0.2) for s in (-0.62, 0.62)]
        _solder(relief, place, pads)
        error = rng.normal(0, (0.0015, 0.0015, 0.02))
        if number != absent:
            _solder(relief, place.at(*error), slabs)
    return frame


def _solder(relief: Relief, frame: Frame, slabs: list[Slab]) -> None:
    for slab in slabs:
        patch = relief.patch(frame.at(slab.u, slab.v), slab.half_u, slab.half_v)
        edge = box(patch.u, patch.v, slab.half_u, slab.half_v, slab.corner)
        height = 0.02 + slab.height * ramp(-edge, -0.002, 0.006)
        relief.paint(patch, patch.cover(edge), slab.colour, height=height, gloss=slab.gloss)
