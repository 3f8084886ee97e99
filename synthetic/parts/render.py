"""One picture of one object, by number: the same number gives the same picture, whatever came before."""

import zlib
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthetic.parts import biscuit, capsules, gear, pcb
from synthetic.parts.camera import SUPERSAMPLING, Shot, photograph
from synthetic.parts.surface import Surface

OBJECTS: dict[str, ModuleType] = {module.NAME: module for module in (pcb, capsules, biscuit, gear)}
"""Each object is a module: NAME, ASPECT (width to height), KINDS of defect, layout, damage and draw."""

VISIBLE = 6
"""Grey levels (of 255, in any channel) by which a pixel must differ to count as defective: our choice,
about twice the camera's noise, so that the mask holds what can be seen and not a shadow's faint end."""

_SMALLEST = 1.5e-4  # of the picture: what a defect must at least change, else it is drawn again


def render(
    name: str, index: int, *, seed: int, size: int, anomalous: bool, flawless: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]:
    """Render one picture.

    Args:
        name: A key of OBJECTS.
        index: The picture's number among the object's normal or anomalous ones.
        seed: The data set's seed.
        size: Shorter side in pixels.
        anomalous: Whether the object has a defect. The kinds take turns; one picture in ten has two.
        flawless: Leave the defects out: the twin of the same pose, light and noise.

    Returns:
        The picture, (h, w, 3) uint8; its mask, (h, w) uint8, 0 where flawless, else the number (from 1) of
        the defect's kind in the object's KINDS; and the kinds, none for a normal picture.
    """
    part = OBJECTS[name]
    object_seed = zlib.crc32(name.encode())
    pose, light, fate = (np.random.default_rng([seed, object_seed, anomalous, index, stream]) for stream in range(3))
    scene, shot = part.layout(pose), Shot.draw(light)
    view = expose(part, scene, shot, size)
    mask = np.zeros(view.picture.shape[:2], np.uint8)
    kinds = _kinds(part, index, fate) if anomalous and not flawless else ()
    for kind in kinds:
        while True:
            hurt = part.damage(scene, kind, fate)
            after = expose(part, hurt, shot, size)
            changed = _changed(view, after, hurt.moved[len(scene.moved) :])
            if changed.mean() >= _SMALLEST:
                break
        scene, view = hurt, after
        mask[changed] = part.KINDS.index(kind) + 1
    return view.picture, mask, kinds


def _kinds(part: ModuleType, index: int, rng: np.random.Generator) -> tuple[str, ...]:
    first = index % len(part.KINDS)
    if rng.random() >= 0.1:
        return (part.KINDS[first],)
    second = (first + int(rng.integers(1, len(part.KINDS)))) % len(part.KINDS)
    return (part.KINDS[first], part.KINDS[second])


class View(NamedTuple):
    """A photographed scene: (h, w, 3) uint8, and the number of the loose part that each pixel shows."""

    picture: NDArray[np.uint8]
    owner: NDArray[np.uint8]


def expose(part: ModuleType, scene: object, shot: Shot, size: int) -> View:
    """Draw a scene and photograph it."""
    surface = Surface((size * SUPERSAMPLING, round(size * part.ASPECT) * SUPERSAMPLING))
    part.draw(scene, surface)
    return View(photograph(surface, shot), surface.owner[::SUPERSAMPLING, ::SUPERSAMPLING])


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where two pictures (h, w, 3) differ visibly."""
    return (np.maximum(one, other) - np.minimum(one, other)).max(-1) >= VISIBLE


def _changed(before: View, after: View, moved: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where two views differ, with the old and the new place of moved parts: they count as a whole."""
    places = np.isin(before.owner, moved) | np.isin(after.owner, moved)
    return difference(before.picture, after.picture) | places
