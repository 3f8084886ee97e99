"""A machined spur gear on a grey cloth."""

from dataclasses import dataclass, replace
from math import pi

import numpy as np

from synthetic.parts.camera import LAMP_AZIMUTH
from synthetic.parts.marks import Blob, Fibre, Groove, Mark, Stain, arc, wander
from synthetic.parts.surface import Frame, Surface, box, disc, ramp, rgb

NAME = "gear"
ASPECT = 1300 / 1154  # VisA's pipe_fryum
KINDS = ("scratch", "stain", "missing", "bent", "crack", "contamination")

_TEETH = 24
_ROOT, _TIP = 0.345, 0.405


@dataclass(frozen=True)
class Layout:
    """One gear: its pose, each tooth's length (1 is whole) and lean, and what else happened to it."""

    pose: Frame
    length: tuple[float, ...]
    lean: tuple[float, ...]
    tone: float
    cloth: float
    seed: int
    moved: tuple[int, ...] = ()
    marks: tuple[Mark, ...] = ()


def layout(rng: np.random.Generator) -> Layout:
    """Draw one flawless gear, turned at random."""
    pose = Frame(rng.normal(0, 0.015), rng.normal(0, 0.012), rng.uniform(0, 2 * pi), rng.uniform(0.97, 1.03))
    length = tuple(float(x) for x in rng.normal(1, 0.01, _TEETH))
    lean = tuple(float(x) for x in rng.normal(0, 0.008, _TEETH))
    return Layout(pose, length, lean, rng.uniform(0.93, 1.07), rng.uniform(0.9, 1.1), int(rng.integers(2**63)))


def damage(gear: Layout, kind: str, rng: np.random.Generator) -> Layout:
    """Return the gear with one more defect of the given kind."""
    tooth = int(rng.integers(_TEETH))
    if kind == "missing":
        left = rng.uniform(0.0, 0.5)
        return replace(gear, length=(*gear.length[:tooth], left, *gear.length[tooth + 1 :]))
    if kind == "bent":
        lean = float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.42))
        return replace(gear, lean=(*gear.lean[:tooth], lean, *gear.lean[tooth + 1 :]))
    seed = int(rng.integers(2**63))
    around, out = rng.uniform(0, 2 * pi), rng.uniform(0.12, 0.33)
    spot = gear.pose.at(out * np.cos(around), out * np.sin(around), rng.uniform(0, 2 * pi))
    mark: Mark
    if kind == "scratch":
        points = arc(rng, float(np.clip(rng.lognormal(-1.9, 0.45), 0.06, 0.35)), 0.02)
        mark = Groove(spot, points, rng.uniform(0.005, 0.009), 0.003, (0.85, 0.85, 0.85), 0.85, 0.5)
    elif kind == "stain":
        radius = float(np.clip(rng.lognormal(-2.8, 0.4), 0.03, 0.13))
        tint = ((0.8, 0.45, 0.22), (0.65, 0.42, 0.28), (0.45, 0.43, 0.4))[rng.integers(3)]
        mark = Stain(spot, radius, tint, seed, gloss=0.01, edge=0.6)
    elif kind == "crack":
        root = gear.pose.at(_ROOT * np.cos(around), _ROOT * np.sin(around), around)
        length = float(np.clip(rng.lognormal(-2.0, 0.35), 0.07, 0.25))
        points = np.stack([np.linspace(-length, length, 12), np.cumsum(rng.normal(0, 0.008, 12))], 1)
        mark = Groove(root, points, rng.uniform(0.006, 0.011), 0.01, (0.015, 0.014, 0.013), 0.95, 0.0)
    elif rng.random() < 0.5:
        size = rng.uniform(0.014, 0.03)
        spot = gear.pose.at(0.29 * np.cos(around), 0.29 * np.sin(around), around)  # clear of the holes
        mark = Blob(spot, size, 0.5 * size, (0.05, 0.035, 0.02), 0.35, seed)
    else:
        points = wander(rng, rng.uniform(0.15, 0.4), 0.45, 12)
        mark = Fibre(spot, points, rng.uniform(0.006, 0.009), (0.45, 0.05, 0.05))
    return replace(gear, marks=(*gear.marks, mark))


def draw(gear: Layout, surface: Surface) -> None:
    """Draw the cloth, the gear, then the marks."""
    rng = np.random.default_rng(gear.seed)
    grain = surface.noise(rng, 0.007)
    across, down = surface.x * np.float32(369), surface.y[:, None] * np.float32(135)
    twill = np.sin(across) * np.cos(down) + np.cos(across) * np.sin(down)  # sin(across + down), cheaply
    fold = surface.noise(rng, 0.35, 2)
    tone = gear.cloth * 0.34 * (1 + 0.08 * twill + 0.06 * grain + 0.04 * fold)
    surface.albedo[:] = tone * rgb((0.85, 0.95, 1.15))
    surface.height += 0.001 * twill + 0.003 * fold
    _body(gear, surface, rng)
    for mark in gear.marks:
        mark.apply(surface)


def _body(gear: Layout, surface: Surface, rng: np.random.Generator) -> None:
    patch = surface.patch(gear.pose, 1.05 * _TIP)
    radius = disc(patch.u, patch.v, 0)
    angle = np.arctan2(patch.v, patch.u)
    place = angle * np.float32(_TEETH / (2 * pi))
    tooth = np.round(place).astype(np.int16)
    out = np.clip((radius - _ROOT) / (_TIP - _ROOT), 0, 1.1)
    lean = np.float32(gear.lean)[tooth] * out
    from_axis = np.abs(place - tooth - lean)
    long = np.float32(gear.length)[tooth]
    flank = (from_axis - (0.30 - 0.13 * out)) * (2 * pi * _ROOT / _TEETH)
    top = radius - (_ROOT + (_TIP - _ROOT) * long)
    edge = np.minimum(radius - _ROOT, np.maximum(flank, top))
    bore = disc(patch.u, patch.v, 0.062)
    key = box(patch.u - 0.06, patch.v, 0.022, 0.016)
    hollow = np.minimum(bore, key)
    turn = np.round(angle * np.float32(6 / (2 * pi))) * np.float32(2 * pi / 6)
    hollow = np.minimum(hollow, disc(patch.u - 0.205 * np.cos(turn), patch.v - 0.205 * np.sin(turn), 0.042))
    edge = np.maximum(edge, -hollow)
    profile = np.interp(np.arange(1000), np.arange(0, 1000, 5), rng.standard_normal(200)).astype(np.float32)
    rings = profile[np.minimum(radius * np.float32(2200), 999).astype(np.int16)]
    web = ramp(radius, 0.105, 0.115) * (1 - ramp(radius, 0.295, 0.305))
    height = 0.045 + 0.012 * ramp(-edge, 0, 0.010) - 0.016 * web + 0.00012 * rings
    # A turned face mirrors the lamp in two opposite wedges.
    toward_lamp = np.cos(angle + np.float32(gear.pose.angle - LAMP_AZIMUTH))
    tone = gear.tone * (0.20 + 0.20 * toward_lamp**2 + 0.012 * rings - 0.04 * web)
    colour = tone * rgb((1.0, 0.98, 0.95))
    gloss = 0.32 + 0.02 * rings
    surface.paint(patch, patch.cover(edge), colour, height=height, gloss=gloss, solid=1)
