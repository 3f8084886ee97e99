"""A butter biscuit on a steel belt: scalloped edge, docker holes, baked crumb."""

from dataclasses import dataclass, replace
from math import pi

import numpy as np

from synthetic.parts.marks import Blob, Fibre, Groove, Hole, Mark, Stain, arc, blot, wander
from synthetic.parts.surface import Field, Frame, Patch, Surface, box, disc, ramp, rgb

NAME = "biscuit"
ASPECT = 1274 / 1176  # VisA's cashew
KINDS = ("scratch", "stain", "missing", "crack", "hole", "contamination")

_HALF = (0.40, 0.31)
_SCALLOP = 0.0475  # distance between two scallops


@dataclass(frozen=True)
class Bite:
    """A piece broken off: an irregular shape in the biscuit's frame."""

    x: float
    y: float
    radius: float
    seed: int


@dataclass(frozen=True)
class Layout:
    """One biscuit: its pose, how it was baked, and what happened to it."""

    pose: Frame
    bake: float  # 0 pale .. 1 dark
    browning: tuple[float, float]  # which side the oven browned more
    seed: int
    bites: tuple[Bite, ...] = ()
    moved: tuple[int, ...] = ()
    marks: tuple[Mark, ...] = ()


def layout(rng: np.random.Generator) -> Layout:
    """Draw one flawless biscuit."""
    pose = Frame(rng.normal(0, 0.015), rng.normal(0, 0.015), rng.normal(0, 0.08), rng.uniform(0.96, 1.04))
    return Layout(pose, rng.uniform(0.2, 0.8), (rng.normal(0, 0.3), rng.normal(0, 0.3)), int(rng.integers(2**63)))


def damage(biscuit: Layout, kind: str, rng: np.random.Generator) -> Layout:
    """Return the biscuit with one more defect of the given kind."""
    seed = int(rng.integers(2**63))
    if kind == "missing":
        radius = float(np.clip(rng.lognormal(-2.85, 0.4), 0.03, 0.16))
        side_u, side_v = rng.choice([-1, 1], 2)
        if rng.random() < 0.5:
            spot = (side_u * (_HALF[0] - 0.2 * radius), side_v * (_HALF[1] - 0.2 * radius))
        else:
            spot = (side_u * _HALF[0], rng.uniform(-0.8, 0.8) * _HALF[1])
        return replace(biscuit, bites=(*biscuit.bites, Bite(*map(float, spot), radius, seed)))
    spot = biscuit.pose.at(rng.uniform(-0.32, 0.32), rng.uniform(-0.23, 0.23), rng.uniform(0, 2 * pi))
    mark: Mark
    if kind == "scratch":
        points = arc(rng, float(np.clip(rng.lognormal(-1.9, 0.4), 0.07, 0.35)), 0.02)
        mark = Groove(spot, points, rng.uniform(0.006, 0.011), 0.003, (0.80, 0.62, 0.36), 0.6)
    elif kind == "stain":
        radius = float(np.clip(rng.lognormal(-2.95, 0.4), 0.025, 0.13))
        tint = ((0.5, 0.42, 0.35), (0.62, 0.55, 0.5), (0.68, 0.85, 0.6))[rng.integers(3)]
        mark = Stain(spot, radius, tint, seed, edge=0.5)
    elif kind == "crack":
        length = float(np.clip(rng.lognormal(-1.7, 0.45), 0.08, 0.5))
        mark = Groove(spot, wander(rng, length, 0.38, 16), rng.uniform(0.005, 0.010), 0.008, (0.17, 0.08, 0.03), 0.8)
    elif kind == "hole":
        mark = Hole(spot, rng.uniform(0.014, 0.032), 0.02, (0.10, 0.05, 0.02), seed)
    elif rng.random() < 0.5:
        colour = ((0.02, 0.06, 0.35), (0.03, 0.25, 0.06), (0.55, 0.55, 0.57))[rng.integers(3)]
        size = rng.uniform(0.010, 0.022)
        mark = Blob(spot, size, 0.6 * size, colour, 0.3, seed)
    else:
        mark = Fibre(spot, wander(rng, rng.uniform(0.1, 0.3), 0.4, 12), 0.005, (0.06, 0.04, 0.03))
    return replace(biscuit, marks=(*biscuit.marks, mark))


def draw(biscuit: Layout, surface: Surface) -> None:
    """Draw the belt, the biscuit, then the marks."""
    rng = np.random.default_rng(biscuit.seed)
    _belt(surface, rng)
    crumb = surface.noise(rng, 0.05, 4)
    pores = surface.noise(rng, 0.011)
    patch = surface.patch(biscuit.pose, _HALF[0] + 0.03, _HALF[1] + 0.03)
    crumb, pores = crumb[patch.area], pores[patch.area]
    whole, broken = _outline(biscuit, patch)
    edge, inside = np.maximum(whole, broken), -whole
    bake = 0.45 * biscuit.bake + 0.30 * (1 - ramp(inside, 0, 0.13))
    bake += (
        0.25 * (biscuit.browning[0] * patch.u + biscuit.browning[1] * patch.v) / 0.4
        + 0.07 * crumb
        + 0.25 * ramp(pores, 1.6, 2.6)
    )
    bake = np.clip(bake, 0, 1)
    pale, dark = rgb((0.74, 0.50, 0.23)), rgb((0.36, 0.155, 0.04))
    colour = pale + bake * (dark - pale)
    # Where a piece broke off, the paler inside of the dough shows.
    fresh = 1 - ramp(-broken, 0, 0.016)
    colour = colour + 0.8 * fresh * (rgb((0.80, 0.64, 0.38)) - colour)
    height = 0.02 + 0.03 * ramp(inside, 0, 0.03) + 0.0016 * crumb - 0.004 * ramp(pores, 1.2, 2.2)
    height = height - _relief(patch) - 0.012 * fresh * (1 + 0.3 * pores)
    surface.paint(patch, patch.cover(edge), colour, height=height, gloss=0.03, solid=1)
    for mark in biscuit.marks:
        mark.apply(surface)


def _belt(surface: Surface, rng: np.random.Generator) -> None:
    """Brushed steel: streaks along x."""
    streaks = rng.standard_normal((surface.shape[0], 1), dtype=np.float32) * 0.5
    streaks = streaks + surface.noise(rng, 0.02)
    tone = 0.23 + 0.012 * streaks + 0.012 * surface.noise(rng, 0.4)
    surface.albedo[:] = tone * rgb((0.97, 1.0, 1.04))
    surface.height += 0.0002 * streaks
    surface.gloss[:] = 0.06


def _outline(biscuit: Layout, patch: Patch) -> tuple[Field, Field]:
    """Signed distance to the whole biscuit, and to what is left of it after pieces broke off."""
    wave_u = np.cos(patch.u * np.float32(2 * pi / _SCALLOP)) * (np.abs(patch.v) > _HALF[1] - 0.06)
    wave_v = np.cos(patch.v * np.float32(2 * pi / _SCALLOP)) * (np.abs(patch.u) > _HALF[0] - 0.06)
    edge = box(patch.u, patch.v, *_HALF, 0.05) - 0.007 * np.maximum(wave_u, wave_v)
    broken = np.full(edge.shape, -1, np.float32)
    for bite in biscuit.bites:
        piece = blot(patch.u - bite.x, patch.v - bite.y, bite.radius, bite.seed)
        broken = np.maximum(broken, -piece)
    return edge, broken


def _relief(patch: Patch) -> Field:
    """Depth of the stamped border and of the docker holes."""
    border = np.abs(box(patch.u, patch.v, _HALF[0] - 0.055, _HALF[1] - 0.055, 0.02)) - 0.004
    depth = 0.007 * (1 - ramp(border, -0.002, 0.006))
    pitch_u, pitch_v = 0.105, 0.1
    u = patch.u - pitch_u * np.clip(np.round(patch.u / pitch_u), -3, 3)
    v = patch.v - pitch_v * np.clip(np.round(patch.v / pitch_v), -2, 2)
    return depth + 0.022 * (1 - ramp(disc(u, v, 0), 0.006, 0.014))
