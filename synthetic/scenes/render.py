"""One scene by number: the same (seed, index) gives the same picture, whatever came before."""

import numpy as np
from numpy.typing import NDArray

from synthetic.scenes import closeups
from synthetic.scenes.builtup import room, street
from synthetic.scenes.canvas import Canvas
from synthetic.scenes.outdoors import landscape
from synthetic.scenes.stilllife import flower, still_life

_PAINTERS = (
    landscape, still_life, landscape, street, closeups.foliage, still_life, room, flower, landscape,
    closeups.masonry, still_life, closeups.wood, street, closeups.pebbles, room, closeups.fabric, closeups.ground,
)  # fmt: skip


def render(index: int, *, seed: int, size: int) -> NDArray[np.uint8]:
    """Render one scene.

    Args:
        index: The scene's number; the kinds of scene take turns.
        seed: The data set's seed.
        size: Side in pixels.

    Returns:
        (size, size, 3) uint8, sRGB.
    """
    rng = np.random.default_rng([seed, index])
    canvas = Canvas(size, rng)
    _PAINTERS[index % len(_PAINTERS)](canvas)
    return _photograph(canvas)


def _photograph(canvas: Canvas) -> NDArray[np.uint8]:
    """Expose the scene: auto-exposure with some error, white balance, vignette, contrast, noise."""
    rng = canvas.rng
    rgb = canvas.rgb
    level = float(np.sqrt(np.clip(rgb, 0, 1)).mean())
    exposure = (rng.uniform(0.36, 0.56) / max(level, 0.05)) ** 1.2
    warmth = rng.normal(0, 0.06)
    away = (canvas.x - 0.5) ** 2 + (canvas.y - 0.5) ** 2
    gain = exposure * (1 - rng.uniform(0, 0.5) * away)
    rgb = rgb * gain[..., None] * np.float32((1 + warmth, 1, 1 - warmth))
    rgb = rgb * (1 + 0.15 * rgb) / (1 + 0.35 * rgb * rgb)  # a film's shoulder instead of clipping
    picture = 255 * np.sqrt(np.clip(rgb, 0, 1))
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 3))
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
