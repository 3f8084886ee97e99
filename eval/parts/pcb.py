"""A populated printed circuit board: chips, pads, traces, capacitors, a pin header and screw holes."""

from dataclasses import dataclass, replace
from math import pi

import numpy as np
from numpy.typing import NDArray

from eval.parts.marks import Blob, Fibre, Groove, Mark, Stain, arc, wander
from eval.parts.surface import Colour, Frame, Surface, box, disc, ramp

NAME = "pcb"
ASPECT = 1404 / 1070  # VisA's pcb1
KINDS = ("scratch", "stain", "missing", "displaced", "bridge", "contamination")

_HALF = (0.585, 0.425)
_MASK: Colour = (0.012, 0.105, 0.045)
_COPPER: Colour = (0.03, 0.19, 0.075)
_GOLD: Colour = (0.62, 0.42, 0.13)
_TIN: Colour = (0.55, 0.55, 0.53)
_INK: Colour = (0.72, 0.74, 0.70)
_BLACK: Colour = (0.022, 0.022, 0.025)


@dataclass(frozen=True)
class Component:
    """One component: its kind, where it is soldered, its printed text and its lot's shade."""

    kind: str
    x: float
    y: float
    angle: float = 0.0
    text: str = ""
    shade: float = 1.0


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
# Half extents of each kind, pads included.
_EXTENT = {
    "qfp": (0.135, 0.135), "soic": (0.085, 0.075), "can": (0.07, 0.07), "header": (0.265, 0.032),
    "crystal": (0.08, 0.033), "led": (0.027, 0.018), "resistor": (0.031, 0.016), "capacitor": (0.031, 0.017),
}  # fmt: skip
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
_VIAS = (
    (-0.33, -0.36), (-0.2, -0.39), (0.1, -0.39), (0.03, -0.28), (0.15, -0.3), (0.39, 0.25), (0.3, 0.26),
    (0.45, 0.3), (-0.33, 0.1), (-0.31, 0.26), (-0.45, 0.26), (-0.54, 0.2), (-0.54, -0.2), (0.54, 0.15),
    (0.54, -0.1), (-0.05, 0.14), (0.05, 0.13), (0.16, 0.03), (-0.33, -0.22), (-0.34, -0.04), (0.24, 0.07),
)  # fmt: skip
_SEGMENTS = {  # the seven-segment font of the silk screen: a b c d e f g
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc",
    "7": "abc", "8": "abcdefg", "9": "abcfgd", "C": "afed", "U": "fbcde", "L": "fed", "J": "bcd", "A": "efabcg",
}  # fmt: skip
_STROKES = {
    "a": (0, -1, 1, 0), "b": (0.5, -0.5, 0, 1), "c": (0.5, 0.5, 0, 1), "d": (0, 1, 1, 0),
    "e": (-0.5, 0.5, 0, 1), "f": (-0.5, -0.5, 0, 1), "g": (0, 0, 1, 0),
}  # fmt: skip


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
    pose = Frame(rng.normal(0, 0.008), rng.normal(0, 0.008), rng.normal(0, 0.02), rng.uniform(0.98, 1.02))
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
        return _marked(board, Blob(joint, size, 0.8 * size, _TIN, 0.5, int(rng.integers(2**63))))
    spot = board.pose.at(rng.uniform(-0.45, 0.45), rng.uniform(-0.33, 0.3), rng.uniform(0, 2 * pi))
    if kind == "scratch":
        length = float(np.clip(rng.lognormal(-1.7, 0.5), 0.06, 0.5))
        points = arc(rng, length, 0.1 * length)
        width = rng.uniform(0.006, 0.011)
        return _marked(board, Groove(spot, points, width, 0.002, (0.52, 0.42, 0.26), 0.8, 0.25))
    if kind == "stain":
        radius = float(np.clip(rng.lognormal(-2.8, 0.45), 0.025, 0.14))
        tint = ((0.28, 0.26, 0.3), (2.6, 1.6, 1.7), (2.2, 1.7, 3.0))[rng.integers(3)]
        return _marked(board, Stain(spot, radius, tint, int(rng.integers(2**63)), gloss=0.02))
    colour = ((0.75, 0.72, 0.66), (0.03, 0.03, 0.04), (0.5, 0.06, 0.05))[rng.integers(3)]
    points = wander(rng, rng.uniform(0.12, 0.35), 0.35, 12)
    return _marked(board, Fibre(spot, points, rng.uniform(0.006, 0.01), colour))


def _marked(board: Layout, mark: Mark) -> Layout:
    return replace(board, marks=(*board.marks, mark))


def _misplaced(board: Layout, kind: str, rng: np.random.Generator) -> Layout:
    present = [i for i, part in enumerate(board.components) if part and part.kind != "header"]
    # Small components outnumber the big ones, as on a real board.
    index = int(rng.choice(present))
    part = board.components[index]
    if kind == "missing":
        changed = None
    else:
        turn = rng.choice([-1, 1]) * rng.uniform(0.15, 0.9)
        away, far = rng.uniform(0, 2 * pi), rng.uniform(0.012, 0.03)
        changed = replace(
            part, x=part.x + far * np.cos(away), y=part.y + far * np.sin(away), angle=part.angle + turn
        )
    components = (*board.components[:index], changed, *board.components[index + 1 :])
    return replace(board, components=components, moved=(*board.moved, index + 1))


def draw(board: Layout, surface: Surface) -> None:
    """Draw mat, bare board, then what is soldered on it, then the marks."""
    rng = np.random.default_rng(board.seed)
    grain = surface.noise(rng, 0.012)
    surface.albedo[:] = (0.055 + 0.006 * grain + 0.006 * surface.noise(rng, 0.3))[..., None]
    surface.albedo *= np.float32((0.95, 1.0, 1.12))
    surface.height += 0.0006 * grain
    _bare_board(board, surface)
    for number, (part, place) in enumerate(zip(board.components, _DESIGN, strict=True), 1):
        _pads(place, board.pose.at(place.x, place.y, place.angle), surface)
        if part:
            _PAINTERS[part.kind](part, board.pose.at(part.x, part.y, part.angle), surface, number)
    for mark in board.marks:
        mark.apply(surface)


def _bare_board(board: Layout, surface: Surface) -> None:
    patch = surface.patch(board.pose, *_HALF)
    edge = box(patch.u, patch.v, *_HALF, 0.02)
    surface.paint(patch, patch.cover(edge), board.mask, height=0.02, gloss=0.035, solid=1)
    for points in _TRACES:
        for start, end in zip(points[:-1], points[1:], strict=True):
            _stroke(surface, board.pose, start, end, 0.0042, _COPPER, lift=0.0006)
    for x, y in _VIAS:
        _ring(surface, board.pose.at(x, y), 0.011, 0.005, (0.02, 0.02, 0.02))
    for part in _DESIGN:
        half_u, half_v = _EXTENT[part.kind]
        frame = board.pose.at(part.x, part.y, part.angle)
        silk = surface.patch(frame, half_u + 0.012, half_v + 0.012)
        outline = np.abs(box(silk.u, silk.v, half_u + 0.008, half_v + 0.008, 0.004)) - 0.0018
        surface.paint(silk, 0.9 * silk.cover(outline), _INK)
    for text, x, y in (
        ("U1", -0.27, -0.21),
        ("C4", -0.36, -0.25),
        ("5PC-8A", -0.44, 0.385),
        ("J1", 0.28, 0.35),
    ):
        _text(surface, board.pose.at(x, y), text, 0.022, _INK)
    for x in (-0.535, 0.535):
        for y in (-0.375, 0.375):
            _ring(surface, board.pose.at(x, y), 0.038, 0.022, (0.05, 0.05, 0.056), solid=0.0)


def _stroke(
    surface: Surface,
    frame: Frame,
    start: NDArray,
    end: NDArray,
    half: float,
    colour: Colour,
    lift: float = 0.0,
) -> None:
    (dx, dy), (x, y) = end - start, (start + end) / 2
    along = frame.at(x, y, float(np.arctan2(dy, dx)))
    length = float(np.hypot(dx, dy)) / 2
    patch = surface.patch(along, length + half, half)
    distance = np.hypot(np.maximum(np.abs(patch.u) - length, 0), patch.v) - half
    surface.paint(patch, patch.cover(distance), colour, lift=lift)


def _text(surface: Surface, frame: Frame, text: str, size: float, colour: Colour) -> None:
    for place, letter in enumerate(text):
        here = frame.at(0.8 * size * place, 0, 0, size / 2)
        for segment in _SEGMENTS.get(letter, "g"):
            x, y, across, _ = _STROKES[segment]
            reach = np.array((0.5, 0.0) if across else (0.0, 0.5))
            middle = np.array((x, y)) * (1, 1)
            _stroke(surface, here, middle - reach, middle + reach, 0.13, colour)


def _ring(
    surface: Surface, frame: Frame, outer: float, inner: float, inside: Colour, solid: float | None = None
) -> None:
    patch = surface.patch(frame, outer)
    distance = disc(patch.u, patch.v, 0)
    surface.paint(patch, patch.cover(distance - outer), _GOLD, lift=0.001, gloss=0.25)
    surface.paint(patch, patch.cover(distance - inner), inside, height=0.0, gloss=0.0, solid=solid)


def _pin_places(kind: str) -> list[tuple[float, float, float]]:
    """Position and turn of each gull-wing pin."""
    if kind == "qfp":
        places = [0.015 * i for i in range(-5, 6)]
        return [(t, s * 0.115, 0.0) for t in places for s in (-1, 1)] + [
            (s * 0.115, t, pi / 2) for t in places for s in (-1, 1)
        ]
    return [(0.036 * i - 0.054, s * 0.06, 0.0) for i in range(4) for s in (-1, 1)]


def _pads(part: Component, frame: Frame, surface: Surface) -> None:
    """The bare solder pads of a component, seen where it is missing."""
    if part.kind in ("qfp", "soic"):
        half = (0.0045, 0.019) if part.kind == "qfp" else (0.009, 0.017)
        pads = [(frame.at(x, y, turn), *half) for x, y, turn in _pin_places(part.kind)]
    elif part.kind in ("resistor", "capacitor", "led"):
        pads = [(frame.at(s * 0.021, 0), 0.011, 0.014) for s in (-1, 1)]
    elif part.kind == "header":
        return
    else:
        reach = 0.035 if part.kind == "can" else 0.055
        pads = [(frame.at(s * reach, 0), 0.02, 0.012) for s in (-1, 1)]
    for place, half_u, half_v in pads:
        patch = surface.patch(place, half_u, half_v)
        cover = patch.cover(box(patch.u, patch.v, half_u, half_v, 0.003))
        surface.paint(patch, cover, _TIN, lift=0.001, gloss=0.2)


def _chip(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    big = part.kind == "qfp"
    half = (0.1, 0.1) if big else (0.078, 0.045)
    pin = (0.0035, 0.016) if big else (0.007, 0.015)
    for x, y, turn in _pin_places(part.kind):
        patch = surface.patch(frame.at(x, y, turn), *pin)
        cover = patch.cover(box(patch.u, patch.v, *pin))
        surface.paint(patch, cover, _TIN, lift=0.004, gloss=0.45, owner=number)
    patch = surface.patch(frame, *half)
    edge = box(patch.u, patch.v, *half, 0.006)
    body = tuple(c * part.shade for c in _BLACK)
    bevel = 0.026 + 0.012 * ramp(-edge, 0, 0.012)
    surface.paint(patch, patch.cover(edge), body, height=bevel, gloss=0.05, owner=number)
    dot = disc(patch.u + half[0] - 0.022, patch.v + half[1] - 0.022, 0.009)
    surface.paint(patch, patch.cover(dot), lift=-0.004)
    size = 0.03 if big else 0.024
    _text(surface, frame.at(-1.2 * size, -0.01 if big else 0), part.text, size, (0.25, 0.25, 0.25))
    if big:
        _text(surface, frame.at(-1.6 * size, 0.04), "8A5C1", size, (0.25, 0.25, 0.25))


def _can(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.066)
    base = box(patch.u, patch.v, 0.062, 0.062, 0.014)
    surface.paint(patch, patch.cover(base), _BLACK, height=0.03, gloss=0.04, owner=number)
    radius = disc(patch.u, patch.v, 0)
    top = 0.075 - 0.012 * ramp(radius, 0.042, 0.055)
    surface.paint(patch, patch.cover(radius - 0.054), (0.6, 0.61, 0.63), height=top, gloss=0.3, owner=number)
    print_ = patch.cover(np.maximum(radius - 0.047, patch.u + 0.022))
    surface.paint(patch, print_, tuple(c * part.shade for c in _BLACK))
    cross = np.minimum(np.abs(patch.u), np.abs(patch.v))
    surface.paint(patch, patch.cover(np.maximum(cross - 0.001, radius - 0.03)), lift=-0.002)


def _header(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.262, 0.03)
    edge = box(patch.u, patch.v, 0.26, 0.028, 0.004)
    surface.paint(patch, patch.cover(edge), _BLACK, height=0.045, gloss=0.05, owner=number)
    for index in range(10):
        pin = surface.patch(frame.at(-0.234 + 0.052 * index, 0), 0.012)
        distance = np.maximum(np.abs(pin.u), np.abs(pin.v))
        top = 0.048 + 0.02 * ramp(-distance, -0.011, -0.004)
        surface.paint(pin, pin.cover(distance - 0.0105), _GOLD, height=top, gloss=0.5, owner=number)


def _crystal(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.076, 0.032)
    edge = box(patch.u, patch.v, 0.074, 0.03, 0.03)
    dome = 0.03 + 0.022 * ramp(-edge, 0, 0.012)
    colour = tuple(0.58 * part.shade for _ in range(3))
    surface.paint(patch, patch.cover(edge), colour, height=dome, gloss=0.5, owner=number)
    _text(surface, frame.at(-0.03, 0), part.text, 0.022, (0.2, 0.2, 0.2))


def _box_part(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    body, ends, mark, gloss = {
        "resistor": (_BLACK, _TIN, (0.3, 0.3, 0.3), 0.08),
        "capacitor": ((0.35, 0.21, 0.1), _TIN, None, 0.12),
        "led": ((0.62, 0.6, 0.5), _GOLD, (0.75, 0.6, 0.1), 0.2),
    }[part.kind]
    patch = surface.patch(frame, 0.026, 0.014)
    edge = box(patch.u, patch.v, 0.024, 0.0125, 0.002)
    height = 0.022 + 0.008 * ramp(-edge, 0, 0.005)
    cover = patch.cover(edge)
    surface.paint(patch, cover, tuple(c * part.shade for c in body), height=height, gloss=gloss, owner=number)
    surface.paint(patch, cover * patch.cover(0.0165 - np.abs(patch.u)), ends, gloss=0.4)
    if mark:
        surface.paint(patch, patch.cover(box(patch.u, patch.v, 0.008, 0.004)), mark)


_PAINTERS = {
    "qfp": _chip, "soic": _chip, "can": _can, "header": _header, "crystal": _crystal,
    "led": _box_part, "resistor": _box_part, "capacitor": _box_part,
}  # fmt: skip
