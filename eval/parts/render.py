"""One picture of one object, by number: the same number gives the same picture, whatever came before."""

import zlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from eval.parts import biscuit, capsules, gear, pcb
from eval.parts.camera import SUPERSAMPLING, Shot, photograph
from eval.parts.surface import Surface

OBJECTS: dict[str, ModuleType] = {module.NAME: module for module in (pcb, capsules, biscuit, gear)}
"""Each object is a module: NAME, ASPECT (width to height), KINDS of defect, layout, damage and draw."""

VISIBLE = 6
"""Grey levels (of 255, in any channel) by which a pixel must differ to count as defective: our choice,
about twice the camera's noise, so that the mask holds what can be seen and not a shadow's faint end."""

_SMALLEST = 1.5e-4  # of the picture: what a defect must at least change, else it is drawn again


def render(
    name: str, index: int, *, seed: int, size: int, anomalous: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]:
    """Render one picture.

    Args:
        name: A key of OBJECTS.
        index: The picture's number among the object's normal or anomalous ones.
        seed: The data set's seed.
        size: Shorter side in pixels.
        anomalous: Whether the object has a defect. The kinds take turns; one picture in ten has two.

    Returns:
        The picture, (h, w, 3) uint8; its mask, (h, w) uint8, 0 where flawless, else the number (from 1) of
        the defect's kind in the object's KINDS; and the kinds, none for a normal picture.
    """
    part = OBJECTS[name]
    streams = [
        np.random.default_rng([seed, zlib.crc32(name.encode()), anomalous, index, stream]) for stream in range(3)
    ]
    scene, shot = part.layout(streams[0]), Shot.draw(streams[1])
    picture, owner = _expose(part, scene, shot, size)
    mask = np.zeros(picture.shape[:2], np.uint8)
    kinds = _kinds(part, index, streams[2]) if anomalous else ()
    for kind in kinds:
        scene, picture, owner, changed = _damaged(part, kind, scene, shot, picture, owner, streams[2])
        mask[changed] = part.KINDS.index(kind) + 1
    return picture, mask, kinds


def _kinds(part: ModuleType, index: int, rng: np.random.Generator) -> tuple[str, ...]:
    first = index % len(part.KINDS)
    if rng.random() >= 0.1:
        return (part.KINDS[first],)
    second = (first + int(rng.integers(1, len(part.KINDS)))) % len(part.KINDS)
    return (part.KINDS[first], part.KINDS[second])


def _expose(part: ModuleType, scene: object, shot: Shot, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the picture and, at the relief's resolution, which loose part each pixel shows."""
    surface = Surface((size * SUPERSAMPLING, round(size * part.ASPECT) * SUPERSAMPLING))
    part.draw(scene, surface)
    return photograph(surface, shot), surface.owner


def _damaged(part, kind, scene, shot, picture, owner, rng):  # type: ignore[no-untyped-def]
    """Damage the scene until it shows; return the new scene, picture and owners and what changed."""
    while True:
        hurt = part.damage(scene, kind, rng)
        seen, shown = _expose(part, hurt, shot, picture.shape[0])
        changed = difference(picture, seen)
        # A displaced part may by chance look the same where its old and new place overlap.
        moved = np.isin(owner, hurt.moved) | np.isin(shown, hurt.moved)
        changed |= moved[::SUPERSAMPLING, ::SUPERSAMPLING]
        if changed.mean() >= _SMALLEST:
            return hurt, seen, shown, changed


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where two pictures (h, w, 3) differ visibly."""
    return (np.maximum(one, other) - np.minimum(one, other)).max(-1) >= VISIBLE
