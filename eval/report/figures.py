"""The pictures of a report, kept beside the numbers so that it can be rendered again without the data set."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image
from scipy import ndimage

from ..data.datasets import Category, Sample
from ..data.images import read_mask, read_photo
from ..metrics import ranking
from ..predictions import Prediction

_LONG_SIDE = 320  # pixels of a figure
_OUTLINE = (0, 229, 255)
_COLOURS = mpl.colormaps["inferno"]  # its lightness rises throughout, so it can be read without colour


def write_figures(
    folder: Path, category: Category, prediction: Prediction, masks: np.ndarray | None, resize: str
) -> dict[str, Any]:
    """Write photographs and heat maps of the best, the median and the worst anomaly.

    Anomalies are ranked by the average precision of each map against its mask, or by their image scores where
    there are no maps or no visible masks.

    Args:
        folder: Receives `<rank>-photo.jpg` and `<rank>-heat.jpg`.
        category: The data.
        prediction: Of the test images.
        masks: True defects, bool [N, S, S], or None.
        resize: Which part of the photographs the method saw; one of `eval.data.images.RESIZES`.

    Returns:
        JSON-ready: `figures`, `heat_range` (map values at both ends of the colours; None without maps), `ranked_by`,
        `scores` and `anomalous` of all test images, `vanished_masks` (masks without a pixel at the evaluated size).
    """
    anomalies = [i for i, sample in enumerate(category.test) if sample.anomalous]
    maps = prediction.maps
    quality = {}
    if maps is not None and masks is not None:
        quality = {i: _localisation(maps[i], masks[i]) for i in anomalies}
    visible = {i: value for i, value in quality.items() if value is not None}
    shown = visible or {i: float(prediction.scores[i]) for i in anomalies}
    order = sorted(shown, key=lambda i: shown[i], reverse=True)
    normal = np.array([not sample.anomalous for sample in category.test])
    ends = None if maps is None else _heat_range(maps, normal)
    figures = []
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    for rank, index in chosen.items():
        sample = category.test[index]
        heat = None if ends is None else np.clip((maps[index] - ends[0]) / (ends[1] - ends[0]), 0, 1)
        width, height = _draw(folder, rank, sample, heat, resize)
        figures.append(
            {
                "rank": rank,
                "image": sample.image.relative_to(category.folder).as_posix(),
                "kind": sample.kind,
                "score": _short(prediction.scores[index]),
                "higher_than_normals": float(np.mean(prediction.scores[normal] < prediction.scores[index])),
                "localisation": None if index not in visible else round(visible[index], 4),
                "width": width,
                "height": height,
            }
        )
    return {
        "figures": figures,
        "heat_range": ends and [_short(end) for end in ends],
        "ranked_by": "average precision of the map" if visible else "image score",
        "vanished_masks": len(quality) - len(visible),
        "scores": [_short(score) for score in prediction.scores],
        "anomalous": [sample.anomalous for sample in category.test],
    }


def _heat_range(maps: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    """Map values at both ends of the colours, from every 16th pixel so that maps need not fit in memory."""
    pixels = maps[:, ::4, ::4]
    low = float(np.median(pixels[normal]))
    return low, max(float(np.quantile(pixels, 0.999)), low + 1e-6)


def _localisation(anomaly_map: np.ndarray, mask: np.ndarray) -> float | None:
    if mask.all() or not mask.any():
        return None
    return ranking.average_precision(ranking.rank(anomaly_map[mask], anomaly_map[~mask]))


def _draw(folder: Path, rank: str, sample: Sample, heat: np.ndarray | None, resize: str) -> tuple[int, int]:
    """Save the photograph and, with maps, its heat map, both with the true outline; returns width and height."""
    photo = read_photo(sample.image, _LONG_SIDE, resize)
    size = photo.shape[1::-1]
    pictures = {"photo": photo}
    if heat is not None:
        pictures["heat"] = coloured(photo, heat, size)
    for name, picture in pictures.items():
        if sample.mask:
            picture = _outlined(picture, read_mask(sample.mask, _LONG_SIDE, resize), size)
        saved = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        saved.save(folder / f"{rank}-{name}.jpg", quality=82, optimize=True)
    return size


def coloured(photo: np.ndarray, heat: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Lay a heat map over a photograph in grey; hotter places are more opaque.

    Args:
        photo: RGB in [0, 255], [height, width, 3].
        heat: In [0, 1], [S, S].
        size: (width, height).

    Returns:
        RGB in [0, 255], floating, [height, width, 3].
    """
    heat = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = 255 * _COLOURS(heat)[..., :3]
    opacity = (0.25 + 0.6 * heat)[..., None]
    return photo.mean(axis=-1, keepdims=True) * (1 - opacity) + colours * opacity


def _outlined(picture: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw the contour just outside the defect, with a dark rim so that it is visible on any background."""
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    inner = ndimage.binary_dilation(mask, iterations=2)
    line = ndimage.binary_dilation(inner, iterations=1) & ~inner
    rim = ndimage.binary_dilation(inner, iterations=2) & ~inner & ~line
    picture = picture.copy()
    picture[rim] *= 0.35
    picture[line] = _OUTLINE
    return picture


def _short(value: float) -> float:
    return float(f"{value:.6g}")
