"""What is soldered onto a board, the pads under it, and the print on it."""

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

from synthetic.parts.surface import Colour, Field, Frame, Surface, box, disc, length, ramp

GOLD: Colour = (0.62, 0.42, 0.13)
TIN: Colour = (0.55, 0.55, 0.53)
BLACK: Colour = (0.022, 0.022, 0.025)
_GREY_PRINT: Colour = (0.25, 0.25, 0.25)

EXTENT = {
    "qfp": (0.135, 0.135), "soic": (0.085, 0.075), "can": (0.07, 0.07), "header": (0.265, 0.032),
    "crystal": (0.08, 0.033), "led": (0.032, 0.018), "resistor": (0.032, 0.016), "capacitor": (0.032, 0.016),
}  # fmt: skip
"""Half extents of each kind, pads included."""

_SEGMENTS = {  # a seven-segment font, segments a to g
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
    "8": "abcdefg", "9": "abcfgd", "A": "efabcg", "C": "afed", "J": "bcd", "L": "fed", "P": "efabg", "U": "fbcde",
    "-": "g",
}  # fmt: skip
_STROKES = {  # middle of each segment and whether it lies across
    "a": (0, -1, True), "b": (0.5, -0.5, False), "c": (0.5, 0.5, False), "d": (0, 1, True),
    "e": (-0.5, 0.5, False), "f": (-0.5, -0.5, False), "g": (0, 0, True),
}  # fmt: skip


@dataclass(frozen=True)
class Component:
    """One component: its kind, where it is soldered, its printed text and its lot's shade."""

    kind: str
    x: float
    y: float
    angle: float = 0.0
    text: str = ""
    shade: float = 1.0

    def on(self, board: Frame) -> Frame:
        """Return the component's own frame."""
        return board.at(self.x, self.y, self.angle)


def stroke(
    surface: Surface,
    frame: Frame,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    half: float,
    colour: Colour,
    lift: float,
) -> None:
    """Draw a straight line with round ends, `half` its half width."""
    (dx, dy), (x, y) = end - start, (start + end) / 2
    reach = float(np.hypot(dx, dy)) / 2
    patch = surface.patch(frame.at(x, y, float(np.arctan2(dy, dx))), reach + half, half)
    distance = length(np.maximum(np.abs(patch.u) - reach, 0), patch.v) - half
    surface.paint(patch, patch.cover(distance), colour, lift=lift)


def print_text(surface: Surface, frame: Frame, text: str, size: float, colour: Colour) -> None:
    """Print digits and a few letters, `size` high, to the right of the frame's origin."""
    for place, letter in enumerate(text):
        patch = surface.patch(frame.at(0.8 * size * place, 0, 0, size / 2), 0.7, 1.2)
        ink = np.full(patch.u.shape, np.inf, np.float32)
        for segment in _SEGMENTS[letter]:
            x, y, across = _STROKES[segment]
            u, v = np.abs(patch.u - x), np.abs(patch.v - y)
            along, beside = (u, v) if across else (v, u)
            ink = np.minimum(ink, np.maximum(along - 0.58, beside - 0.13))
        surface.paint(patch, patch.cover(ink), colour)


def ring(
    surface: Surface, frame: Frame, outer: float, inner: float, inside: Colour, solid: float | None = None
) -> None:
    """Draw a plated hole."""
    patch = surface.patch(frame, outer)
    distance = disc(patch.u, patch.v, 0)
    surface.paint(patch, patch.cover(distance - outer), GOLD, lift=0.001, gloss=0.25)
    surface.paint(patch, patch.cover(distance - inner), inside, height=0.0, gloss=0.0, solid=solid)


def _comb(u: Field, pitch: float, count: int) -> Field:
    """Distance along u to the nearest of `count` equally spaced places about 0."""
    offset = 0.0 if count % 2 else pitch / 2
    last = (count - 1) * pitch / 2
    nearest = np.clip(np.round((u - offset) / pitch) * pitch + offset, -last, last)
    return np.abs(u - nearest)


def _pin_rows(surface: Surface, frame: Frame, kind: str, half_u: float, half_v: float, owner: int | None) -> None:
    """The pins of a chip (owner given) or the pads under them: one patch for each side of the chip."""
    sides, out, pitch, count = (4, 0.115, 0.015, 11) if kind == "qfp" else (2, 0.06, 0.036, 4)
    for side in range(sides):
        place = frame.at(0, 0, side * 2 * pi / sides).at(0, out)
        patch = surface.patch(place, pitch * count / 2, half_v)
        pins = np.maximum(_comb(patch.u, pitch, count) - half_u, np.abs(patch.v) - half_v)
        lift, gloss = (0.001, 0.2) if owner is None else (0.004, 0.45)
        surface.paint(patch, patch.cover(pins), TIN, lift=lift, gloss=gloss, owner=owner)


def draw_pads(kind: str, frame: Frame, surface: Surface) -> None:
    """Draw the bare solder pads of a component, seen where it is missing."""
    if kind == "header":
        return
    if kind in ("qfp", "soic"):
        _pin_rows(surface, frame, kind, *((0.0045, 0.019) if kind == "qfp" else (0.009, 0.017)), None)
        return
    apart, half_u, half_v = {"can": (0.035, 0.02, 0.012), "crystal": (0.055, 0.02, 0.012)}.get(
        kind, (0.021, 0.011, 0.014)
    )
    patch = surface.patch(frame, apart + half_u, half_v)
    pads = box(np.abs(patch.u) - apart, patch.v, half_u, half_v, 0.003)
    surface.paint(patch, patch.cover(pads), TIN, lift=0.001, gloss=0.2)


def draw_component(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    """Draw a component; its pixels become those of loose part `number`."""
    {"qfp": _chip, "soic": _chip, "can": _can, "header": _header, "crystal": _crystal}.get(part.kind, _two_pole)(
        part, frame, surface, number
    )


def _chip(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    big = part.kind == "qfp"
    half = (0.1, 0.1) if big else (0.078, 0.045)
    _pin_rows(surface, frame, part.kind, *((0.0035, 0.016) if big else (0.007, 0.015)), number)
    patch = surface.patch(frame, *half)
    edge = box(patch.u, patch.v, *half, 0.006)
    top = 0.026 + 0.012 * ramp(-edge, 0, 0.012)
    surface.paint(patch, patch.cover(edge), _shaded(BLACK, part), height=top, gloss=0.05, owner=number)
    dot = disc(patch.u + half[0] - 0.022, patch.v + half[1] - 0.022, 0.009)
    surface.paint(patch, patch.cover(dot), lift=-0.004)
    size = 0.03 if big else 0.024
    print_text(surface, frame.at(-1.2 * size, -0.01 if big else 0), part.text, size, _GREY_PRINT)
    if big:
        print_text(surface, frame.at(-1.6 * size, 0.04), "8A5C1", size, _GREY_PRINT)


def _can(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.066)
    base = box(patch.u, patch.v, 0.062, 0.062, 0.014)
    surface.paint(patch, patch.cover(base), BLACK, height=0.03, gloss=0.04, owner=number)
    radius = disc(patch.u, patch.v, 0)
    top = 0.075 - 0.012 * ramp(radius, 0.042, 0.055)
    surface.paint(patch, patch.cover(radius - 0.054), (0.6, 0.61, 0.63), height=top, gloss=0.3, owner=number)
    minus = patch.cover(np.maximum(radius - 0.047, patch.u + 0.022))
    surface.paint(patch, minus, _shaded(BLACK, part))
    cross = np.minimum(np.abs(patch.u), np.abs(patch.v))
    surface.paint(patch, patch.cover(np.maximum(cross - 0.001, radius - 0.03)), lift=-0.002)


def _header(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.262, 0.03)
    edge = box(patch.u, patch.v, 0.26, 0.028, 0.004)
    surface.paint(patch, patch.cover(edge), _shaded(BLACK, part), height=0.045, gloss=0.05, owner=number)
    pin = np.maximum(_comb(patch.u, 0.052, 10), np.abs(patch.v))
    top = 0.048 + 0.02 * ramp(-pin, -0.011, -0.004)
    surface.paint(patch, patch.cover(pin - 0.0105), GOLD, height=top, gloss=0.5, owner=number)


def _crystal(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    patch = surface.patch(frame, 0.076, 0.032)
    edge = box(patch.u, patch.v, 0.074, 0.03, 0.03)
    dome = 0.03 + 0.022 * ramp(-edge, 0, 0.012)
    steel = _shaded((0.52, 0.52, 0.52), part)
    surface.paint(patch, patch.cover(edge), steel, height=dome, gloss=0.35, owner=number)
    print_text(surface, frame.at(-0.03, 0), part.text, 0.022, (0.15, 0.15, 0.15))


def _two_pole(part: Component, frame: Frame, surface: Surface, number: int) -> None:
    """A chip resistor, capacitor or LED."""
    body, ends, print_, gloss = {
        "resistor": (BLACK, TIN, (0.3, 0.3, 0.3), 0.08),
        "capacitor": ((0.35, 0.21, 0.1), TIN, None, 0.12),
        "led": ((0.62, 0.6, 0.5), GOLD, (0.75, 0.6, 0.1), 0.2),
    }[part.kind]
    patch = surface.patch(frame, 0.026, 0.014)
    edge = box(patch.u, patch.v, 0.024, 0.0125, 0.002)
    top = 0.022 + 0.008 * ramp(-edge, 0, 0.005)
    cover = patch.cover(edge)
    surface.paint(patch, cover, _shaded(body, part), height=top, gloss=gloss, owner=number)
    surface.paint(patch, cover * patch.cover(0.0165 - np.abs(patch.u)), ends, gloss=0.4)
    if print_:
        surface.paint(patch, patch.cover(box(patch.u, patch.v, 0.008, 0.004)), print_)


def _shaded(colour: Colour, part: Component) -> Colour:
    r, g, b = colour
    return r * part.shade, g * part.shade, b * part.shade
