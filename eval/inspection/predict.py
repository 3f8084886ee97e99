"""Score photographs with a saved detector: scores as JSON, heat maps as pictures."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spd_weights.errors import SpdError
from spd_weights.files import write_json
from spd_weights.images import IMAGE_SUFFIXES

from ..data.images import read_image, read_photo
from ..data.scratch import scratch
from ..detectors.saved import load_detector
from ..report.figures import coloured
from .progress import peak_memory

_LONG_SIDE = 640  # pixels of a heat map's picture


def predict(path: Path, images: Sequence[Path], out: Path, weights: str | None = None) -> dict[str, Any]:
    """Score photographs one at a time; write `scores.json` and, if the method has maps, heat maps.

    An unreadable photograph is recorded with its error and does not stop the others.

    Args:
        path: The saved detector.
        images: Photographs, or folders of photographs.
        out: Receives `scores.json` and `<name>-heat.png`.
        weights: Name of the backbone, if it is no longer available under the recorded name.

    Returns:
        The content of `scores.json`.

    Raises:
        SpdError: No photograph, a path that does not exist, or as `load_detector`.
    """
    files = _photographs(images)
    detector, extractor, about = load_detector(path, weights)
    size, resize = about["settings"]["image_size"], about["settings"]["resize"]
    rows, heats = [], None
    for index, file in enumerate(files):
        started = time.perf_counter()
        try:
            pixels = torch.from_numpy(read_image(file, size, resize).transpose(2, 0, 1).copy())[None]
        except SpdError as error:
            rows.append({"image": str(file), "score": None, "error": str(error)})
            continue
        score, heat = detector(extractor(pixels))
        value = float(score)
        if heat is not None:
            heats = scratch((len(files), size, size)) if heats is None else heats
            heats[index] = heat[0].cpu().numpy()
        seconds = time.perf_counter() - started
        above = None if about["threshold_hint"] is None else value > about["threshold_hint"]
        rows.append({"image": str(file), "score": value, "above_hint": above, "seconds": round(seconds, 4)})
    try:
        out.mkdir(parents=True, exist_ok=True)
        colours = _draw(out, files, rows, heats, about) if heats is not None else None
    except OSError as error:
        raise SpdError(f"{out}: cannot be written ({error}); choose another --out") from error
    measured = [row["seconds"] for row in rows if row["score"] is not None]
    content = {
        "detector": {"file": str(path), **about},
        "heat_range": colours,
        "seconds_per_image": statistics.median(measured) if measured else None,
        "device": extractor.device.type,
        "peak_memory_mib": peak_memory(),
        "images": rows,
    }
    write_json(out / "scores.json", content)
    return content


def _photographs(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            files.append(path)
        else:
            raise SpdError(f"{path}: no such photograph or folder")
    if not files:
        raise SpdError(f"{', '.join(map(str, paths))}: no photograph in it")
    return files


def _draw(
    out: Path, files: list[Path], rows: list[dict[str, Any]], heats: np.ndarray, about: dict[str, Any]
) -> list[float]:
    """Save all heat maps; returns the map values at the start and in the middle of the colours.

    Colours depend on the detector alone, so that pictures of different calls can be compared. The scale comes from the
    maps of normal images that the detector had not seen: the first colour is their median, the middle colour their
    maximum. Higher values approach the last colour without reaching it, so that a strong defect's peak stays visible.
    """
    known = [index for index, row in enumerate(rows) if row["score"] is not None]
    low, middle = about["map_median"] or 0.0, about["map_maximum"] or float(heats[known].max())
    scale = max(middle - low, 1e-6)
    taken = set()
    for index in known:
        name, copies = files[index].stem, 1
        while name in taken:
            copies += 1
            name = f"{files[index].stem}-{copies}"
        taken.add(name)
        photo = read_photo(files[index], _LONG_SIDE, about["settings"]["resize"])
        size = photo.shape[1::-1]
        above = np.maximum(heats[index] - low, 0)
        picture = coloured(photo, above / (above + scale), size)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(out / f"{name}-heat.png")
        rows[index]["heat"] = f"{name}-heat.png"
    return [low, middle]
