"""A populated printed circuit board: chips, pads, traces, capacitors, a pin header and screw holes."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import pi

import numpy as np

from synthetic.parts.components import EXTENT, TIN, Component, draw_component, draw_pads, print_text, ring, stroke
from synthetic.parts.marks import Blob, Fibre, Groove, Mark, Stain, arc, wander
from synthetic.parts.surface import Colour, Frame, Surface, box, rgb

NAME = "pcb"
ASPECT = 1404 / 1070  # VisA's pcb1
KINDS = ("scratch", "stain", "missing", "displaced", "bridge", "contamination")

_HALF = (0.585, 0.425)
_MASK: Colour = (0.012, 0.105, 0.045)
_COPPER: Colour = (0.03, 0.19, 0.075)
_INK: Colour = (0.72, 0.74, 0.70)


@dataclass(frozen=True)
class Layout:
    """One board: its pose, what is on it, and what happened to it."""

    pose: Frame
    components: tuple[Component | None, ...]
    mask: Colour
    seed: int
    moved: tuple[int, ...] = ()
    marks: tuple[Mark, ...] = ()


_DESIGN = (
    Component("qfp", -0.13, -0.04),
    Component("soic", 0.27, -0.02),
    Component("soic", 0.27, 0.16),
    Component("can", -0.46, -0.17),
    Component("can", -0.46, 0.0),
    Component("header", -0.02, 0.345),
    Component("crystal", -0.42, 0.17),
    Component("led", 0.42, -0.30),
    Component("led", 0.33, -0.30),
    *(Component("resistor", 0.455, -0.16 + 0.075 * row) for row in range(5)),
    *(Component("resistor", -0.28 + 0.085 * column, -0.305, pi / 2) for column in range(5)),
    *(Component("capacitor", 0.09, -0.18 + 0.09 * row, pi / 2) for row in range(4)),
    *(Component("capacitor", -0.25 + 0.1 * column, 0.205) for column in range(3)),
    Component("capacitor", 0.20, -0.20),
    Component("capacitor", 0.32, -0.20),
)
_TRACES = tuple(
    np.array(points)
    for points in (
        *([(-0.1975 + 0.015 * i, -0.16), (-0.1975 + 0.015 * i, -0.2), (-0.28 + 0.0365 * i, -0.27)]
          for i in range(0, 10, 2)),
        *([(-0.01, -0.1 + 0.03 * i), (0.03, -0.1 + 0.03 * i), (0.09, -0.21 + 0.06 * i)] for i in range(5)),
        *([(0.09, -0.15 + 0.09 * i), (0.14, -0.12 + 0.05 * i), (0.2, -0.065 + 0.03 * i)] for i in range(4)),
        *([(-0.25, -0.1 + 0.03 * i), (-0.32, -0.1 + 0.03 * i), (-0.39, -0.17 + 0.055 * i)] for i in range(5)),
        *([(-0.1975 + 0.03 * i, 0.09), (-0.1975 + 0.03 * i, 0.15), (-0.25 + 0.05 * i, 0.2)] for i in range(5)),
        *([(-0.24 + 0.055 * i, 0.33), (-0.24 + 0.055 * i, 0.26), (-0.22 + 0.05 * i, 0.225)] for i in range(5)),
        *([(0.34, -0.06 + 0.03 * i), (0.38, -0.06 + 0.03 * i), (0.425, -0.16 + 0.075 * i)] for i in range(4)),
        *([(0.34, 0.12 + 0.03 * i), (0.39, 0.12 + 0.03 * i), (0.455, 0.18 + 0.04 * i)] for i in range(4)),
        *([(0.06 + 0.05 * i, 0.33), (0.06 + 0.05 * i, 0.29), (0.14 + 0.03 * i, 0.22)] for i in range(4)),
        [(-0.5, -0.36), (-0.3, -0.36), (-0.26, -0.39), (0.24, -0.39), (0.3, -0.33), (0.3, -0.3)],
        [(-0.54, 0.26), (-0.54, -0.26)], [(0.54, 0.28), (0.54, -0.27), (0.5, -0.31), (0.44, -0.31)],
        [(0.2, -0.2), (0.2, -0.27), (0.31, -0.27)], [(0.34, -0.2), (0.4, -0.2), (0.455, -0.17)],
    )
)  # fmt: skip
_LABELS = (("U1", -0.27, -0.21), ("C4", -0.36, -0.25), ("PC8-A5", -0.44, 0.385), ("J1", 0.28, 0.35))
_VIAS = (
    (-0.33, -0.36), (-0.2, -0.39), (0.1, -0.39), (0.03, -0.28), (0.15, -0.3), (0.39, 0.25), (0.3, 0.26),
    (0.45, 0.3), (-0.33, 0.1), (-0.31, 0.26), (-0.45, 0.26), (-0.54, 0.2), (-0.54, -0.2), (0.54, 0.15),
    (0.54, -0.1), (-0.05, 0.14), (0.05, 0.13), (0.16, 0.03), (-0.33, -0.22), (-0.34, -0.04), (0.24, 0.07),
)  # fmt: skip


def layout(rng: np.random.Generator) -> Layout:
    """Draw one flawless board; placement jitter, lot codes and the solder mask's shade vary."""
    components = []
    for part in _DESIGN:
        placed = replace(
            part,
            x=part.x + rng.normal(0, 0.0012),
            y=part.y + rng.normal(0, 0.0012),
            angle=part.angle + rng.normal(0, 0.008),
            shade=rng.uniform(0.85, 1.15),
            text="".join(rng.choice(list("0123456789"), 4)),
        )
        components.append(placed)
    pose = Frame(rng.normal(0, 0.006), rng.normal(0, 0.006), rng.normal(0, 0.014), rng.uniform(0.985, 1.015))
    mask = tuple(float(c * rng.uniform(0.9, 1.1)) for c in _MASK)
    return Layout(pose, tuple(components), mask, int(rng.integers(2**63)))


def damage(board: Layout, kind: str, rng: np.random.Generator) -> Layout:
    """Return the board with one more defect of the given kind."""
    if kind in ("missing", "displaced"):
        return _misplaced(board, kind, rng)
    if kind == "bridge":
        side, pin = rng.integers(4), rng.uniform(-4, 4)
        chip = board.pose.at(_DESIGN[0].x, _DESIGN[0].y, side * pi / 2)
        joint = chip.at(0.015 * pin, 0.115 + rng.uniform(-0.004, 0.008))
        size = rng.uniform(0.010, 0.02)
        return _marked(board, Blob(joint, size, 0.8 * size, TIN, 0.5, int(rng.integers(2**63))))
    spot = board.pose.at(rng.uniform(-0.45, 0.45), rng.uniform(-0.33, 0.3), rng.uniform(0, 2 * pi))
    if kind == "scratch":
        length = float(np.clip(rng.lognormal(-1.5, 0.5), 0.08, 0.5))
        points = arc(rng, length, 0.1 * length)
        width = rng.uniform(0.006, 0.011)
        return _marked(board, Groove(spot, points, width, 0.002, (0.52, 0.42, 0.26), 0.8, 0.25))
    if kind == "stain":
        radius = float(np.clip(rng.lognormal(-2.7, 0.4), 0.03, 0.14))
        tint = ((0.28, 0.26, 0.3), (2.6, 1.6, 1.7), (2.2, 1.7, 3.0))[rng.integers(3)]
        return _marked(board, Stain(spot, radius, tint, int(rng.integers(2**63)), gloss=0.02))
    colour = ((0.75, 0.72, 0.66), (0.03, 0.03, 0.04), (0.5, 0.06, 0.05))[rng.integers(3)]
    points = wander(rng, rng.uniform(0.15, 0.4), 0.35, 12)
    return _marked(board, Fibre(spot, points, rng.uniform(0.006, 0.01), colour))


def _marked(board: Layout, mark: Mark) -> Layout:
    return replace(board, marks=(*board.marks, mark))


def _misplaced(board: Layout, kind: str, rng: np.random.Generator) -> Layout:
    present = [i for i, part in enumerate(board.components) if part and part.kind != "header"]
    # Kind first, or the many small ones would leave the big ones whole.
    kinds = sorted({board.components[i].kind for i in present})
    fallen = rng.choice(kinds)
    index = int(rng.choice([i for i in present if board.components[i].kind == fallen]))
    part = board.components[index]
    if kind == "missing":
        changed = None
    else:
        turn = rng.choice([-1, 1]) * rng.uniform(0.15, 0.9)
        away, far = rng.uniform(0, 2 * pi), rng.uniform(0.012, 0.03)
        changed = replace(part, x=part.x + far * np.cos(away), y=part.y + far * np.sin(away), angle=part.angle + turn)
    components = (*board.components[:index], changed, *board.components[index + 1 :])
    return replace(board, components=components, moved=(*board.moved, index + 1))


def draw(board: Layout, surface: Surface) -> None:
    """Draw mat, bare board, then what is soldered on it, then the marks."""
    rng = np.random.default_rng(board.seed)
    grain = surface.noise(rng, 0.012)
    tone = 0.055 + 0.006 * (grain + surface.noise(rng, 0.3))
    surface.albedo[:] = tone * rgb((0.95, 1.0, 1.12))
    surface.height += 0.0006 * grain
    _bare_board(board, surface)
    for number, (part, place) in enumerate(zip(board.components, _DESIGN, strict=True), 1):
        draw_pads(place.kind, place.on(board.pose), surface)
        if part:
            draw_component(part, part.on(board.pose), surface, number)
    for mark in board.marks:
        mark.apply(surface)


def _bare_board(board: Layout, surface: Surface) -> None:
    patch = surface.patch(board.pose, *_HALF)
    edge = box(patch.u, patch.v, *_HALF, 0.02)
    surface.paint(patch, patch.cover(edge), board.mask, height=0.02, gloss=0.035, solid=1)
    for points in _TRACES:
        for start, end in pairwise(points):
            stroke(surface, board.pose, start, end, 0.0042, _COPPER, 0.0006)
    for x, y in _VIAS:
        ring(surface, board.pose.at(x, y), 0.011, 0.005, (0.02, 0.02, 0.02))
    for part in _DESIGN:
        half_u, half_v = (half + 0.008 for half in EXTENT[part.kind])
        silk = surface.patch(part.on(board.pose), half_u, half_v)
        outline = np.abs(box(silk.u, silk.v, half_u, half_v, 0.004)) - 0.0018
        surface.paint(silk, 0.9 * silk.cover(outline), _INK)
    for text, x, y in _LABELS:
        print_text(surface, board.pose.at(x, y), text, 0.022, _INK)
    for x in (-0.535, 0.535):
        for y in (-0.375, 0.375):
            ring(surface, board.pose.at(x, y), 0.038, 0.022, (0.05, 0.05, 0.056), solid=0.0)
