"""Two-coloured gelatine capsules lying in rows on a conveyor belt, each a little differently."""

from dataclasses import dataclass, replace
from math import pi

import numpy as np

from synthetic.parts.marks import Dent, Fibre, Groove, Mark, Stain, arc, wander
from synthetic.parts.surface import Colour, Frame, Surface, length, ramp, rgb

NAME = "capsules"
ASPECT = 1500 / 1000  # VisA's capsules
KINDS = ("scratch", "stain", "dent", "missing", "bent", "crack", "contamination")

_HALF = 0.090  # half the length without the round ends
_RADIUS = 0.05
_CAP: Colour = (0.50, 0.035, 0.03)
_BODY: Colour = (0.80, 0.62, 0.30)
_POWDER: Colour = (0.75, 0.72, 0.66)


@dataclass(frozen=True)
class Capsule:
    """One capsule: where it lies, where its cap ends, how its axis bends, whether its cap is there."""

    frame: Frame
    seam: float
    shade: float
    bend: float = 0.0
    capped: bool = True


@dataclass(frozen=True)
class Layout:
    """One picture's capsules and belt."""

    capsules: tuple[Capsule, ...]
    belt: float
    shift: float
    seed: int
    moved: tuple[int, ...] = ()
    marks: tuple[Mark, ...] = ()


def layout(rng: np.random.Generator) -> Layout:
    """Lay out three rows of six capsules, each a little off its place and turned, none touching another."""
    drift = rng.normal(0, 0.01, 2)
    capsules = []
    for row in range(3):
        for column in range(6):
            frame = Frame(
                -0.575 + 0.23 * column + drift[0] + rng.normal(0, 0.008),
                -0.325 + 0.325 * row + drift[1] + rng.normal(0, 0.005),
                -pi / 2 + float(np.clip(rng.normal(0, 0.12), -0.3, 0.3)),
            )
            capsules.append(Capsule(frame, rng.normal(0, 0.005), rng.uniform(0.92, 1.08), rng.normal(0, 0.12)))
    return Layout(tuple(capsules), rng.uniform(0.9, 1.1), rng.uniform(0, 1), int(rng.integers(2**63)))


def damage(scene: Layout, kind: str, rng: np.random.Generator) -> Layout:
    """Return the scene with one more defect of the given kind, on one capsule."""
    index = int(rng.integers(len(scene.capsules)))
    capsule = scene.capsules[index]
    if kind == "missing":
        return _with(scene, index, replace(capsule, capped=False))
    if kind == "bent":
        bent = replace(capsule, bend=float(rng.choice([-1, 1]) * rng.uniform(2.0, 4.0)))
        return replace(_with(scene, index, bent), moved=(*scene.moved, index + 1))
    place = capsule.frame.at(rng.uniform(-0.09, 0.09), rng.uniform(-0.014, 0.014), rng.uniform(0, 2 * pi))
    seed = int(rng.integers(2**63))
    mark: Mark
    if kind == "scratch":
        points = arc(rng, rng.uniform(0.06, 0.15), 0.01)
        mark = Groove(place, points, rng.uniform(0.006, 0.010), 0.004, (0.85, 0.76, 0.68), 0.75, 0.0)
    elif kind == "stain":
        tint = ((0.25, 0.22, 0.2), (0.4, 0.5, 0.25))[rng.integers(2)]
        mark = Stain(place, rng.uniform(0.025, 0.06), tint, seed)
    elif kind == "dent":
        mark = Dent(place, rng.uniform(0.02, 0.032), rng.uniform(0.022, 0.034), rng.uniform(1, 1.8))
    elif kind == "crack":
        across = capsule.frame.at(rng.uniform(-0.08, 0.08), 0, pi / 2 + rng.normal(0, 0.3))
        points = np.stack([np.linspace(-0.05, 0.05, 9), rng.normal(0, 0.006, 9)], 1)
        mark = Groove(across, points, rng.uniform(0.008, 0.015), 0.012, (0.05, 0.03, 0.02), 0.95, 0.0)
    else:
        colour = ((0.03, 0.03, 0.03), (0.7, 0.7, 0.72), (0.1, 0.15, 0.5))[rng.integers(3)]
        mark = Fibre(place, wander(rng, rng.uniform(0.12, 0.3), 0.4, 12), rng.uniform(0.006, 0.009), colour)
    return replace(scene, marks=(*scene.marks, mark))


def _with(scene: Layout, index: int, capsule: Capsule) -> Layout:
    return replace(scene, capsules=(*scene.capsules[:index], capsule, *scene.capsules[index + 1 :]))


def draw(scene: Layout, surface: Surface) -> None:
    """Draw the woven belt, the capsules on it, then the marks."""
    _belt(scene, surface)
    for number, capsule in enumerate(scene.capsules, 1):
        _capsule(capsule, surface, number)
    for mark in scene.marks:
        mark.apply(surface)


def _belt(scene: Layout, surface: Surface) -> None:
    rng = np.random.default_rng(scene.seed)
    wear = surface.noise(rng, 0.25, 2)
    grain = surface.noise(rng, 0.008)
    pitch = np.float32(2 * pi / 0.02)
    weave = np.sin((surface.x + np.float32(0.02 * scene.shift)) * pitch)
    weave = weave * np.sin((surface.y[:, None] + np.float32(0.02 * scene.shift)) * pitch)
    tone = np.float32(scene.belt) * (1 + 0.10 * weave + 0.06 * (wear + grain))
    surface.albedo[:] = tone * rgb((0.035, 0.085, 0.10))
    surface.height += 0.0012 * weave + 0.0004 * grain
    surface.gloss[:] = 0.02


def _capsule(capsule: Capsule, surface: Surface, number: int) -> None:
    reach = _HALF + _RADIUS
    patch = surface.patch(capsule.frame, reach + 0.01, _RADIUS + abs(capsule.bend) * reach**2)
    v = patch.v - np.float32(capsule.bend) * (patch.u * patch.u - np.float32(_HALF**2 / 2))
    along = np.maximum(np.abs(patch.u) - _HALF, 0)
    across = length(along, v)
    on_cap = 1 - ramp(patch.u, capsule.seam - 0.002, capsule.seam + 0.002)
    radius = _RADIUS * (0.955 + 0.045 * on_cap)  # the cap slides over the body
    cover = patch.cover(across - radius)
    if not capsule.capped:
        cover = cover * patch.cover(capsule.seam - patch.u)
    profile = np.sqrt(np.clip(radius * radius - across * across, 0, None))
    colour = rgb(_BODY) + on_cap * (rgb(_CAP) - rgb(_BODY))
    surface.paint(
        patch, cover, colour * np.float32(capsule.shade), height=_RADIUS * 0.3 + profile, gloss=0.4, solid=1,
        owner=number,
    )  # fmt: skip
    if not capsule.capped:
        _open_end(capsule, surface, number)


def _open_end(capsule: Capsule, surface: Surface, number: int) -> None:
    """The mouth of a body without its cap, filled with powder."""
    patch = surface.patch(capsule.frame.at(capsule.seam, 0), _RADIUS)
    mouth = length(patch.u / 0.35, patch.v) - 0.93 * _RADIUS
    surface.paint(patch, patch.cover(mouth), (0.12, 0.08, 0.04), gloss=0.0, solid=1, owner=number)
    fill = length((patch.u - 0.004) / 0.3, patch.v) - 0.75 * _RADIUS
    surface.paint(patch, patch.cover(fill), _POWDER, lift=0.002)
