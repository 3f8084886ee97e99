"""Fit a detector once, then use it on photographs: `python -m eval fit` and `python -m eval predict`."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spd_weights.errors import SpdError
from spd_weights.files import write_json
from spd_weights.images import IMAGE_SUFFIXES

from ..backbone.features import Extractor
from ..data.datasets import Category, load_categories
from ..data.download import unpacked
from ..data.images import read_image, read_photo
from ..data.scratch import scratch
from ..detectors.methods import METHODS, Detector, Settings
from ..detectors.saved import load_detector, save_detector
from ..protocols import check_training, feature_maps, not_finite
from ..report.figures import coloured

_LONG_SIDE = 640  # pixels of a heat map's picture
_NOTE = (
    "The highest score of a training image. Training images score lower than other normal ones, so expect "
    "false alarms at it; choose a threshold on photographs the detector has not seen."
)


def fit(
    weights: str, data: Path, category: str, method: str, settings: Settings, seed: int, workers: int, save: Path
) -> dict[str, Any]:
    """Learn from a category's normal training images and write the detector.

    Args:
        weights: As for `eval.backbone.weights.load_backbone`.
        data: The data set's folder.
        category: The category's name.
        method: One of `METHODS`.
        settings: Image size and the methods' options.
        seed: Of the method's draws.
        workers: Processes that decode images.
        save: The safetensors file to write.

    Returns:
        The description stored with the detector.

    Raises:
        SpdError: As `load_categories`, `Extractor`, `check_training` and `save_detector`.
    """
    chosen = _category(data, category)
    extractor = Extractor(weights, settings.image_size, METHODS[method].reductions, settings.feature_precision)
    (detector,) = METHODS[method].make(settings, [seed], len(chosen.train))
    started = time.perf_counter()
    found = _learned(detector, chosen, extractor, settings, workers)
    about = {
        "method": method,
        "settings": asdict(settings),
        "seed": seed,
        "weights": weights,
        "weights_sha256": extractor.sha256,
        "architecture": extractor.architecture,
        "layers": extractor.layers,
        "dataset": chosen.dataset,
        "category": chosen.name,
        "n_train": len(chosen.train),
        **found,
        "threshold_note": _NOTE,
        "seconds": round(time.perf_counter() - started, 3),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    save_detector(save, detector, about)
    return about


def _category(data: Path, name: str) -> Category:
    found = load_categories(unpacked(data), "1cls", [name])
    if len(found) > 1:
        raise SpdError(f"{data}: {name} is in {len(found)} data sets; name one as <data set>/{name}")
    check_training(found[0], "1cls")
    return found[0]


def _learned(
    detector: Detector, category: Category, extractor: Extractor, settings: Settings, workers: int
) -> dict[str, float | None]:
    """Fit a detector; the levels of its scores and maps of the training images."""
    scores, levels = [], []
    try:
        for _, maps in feature_maps(category.train, "train", extractor, settings, workers, _quiet):
            detector.update(maps)
        detector.fit()
        for _, maps in feature_maps(category.train, "score", extractor, settings, workers, _quiet):
            score, heat = detector.score(maps)
            scores += score.tolist()
            levels += [] if heat is None else [heat[:, ::4, ::4].flatten().cpu()]
    except torch.linalg.LinAlgError as error:
        raise not_finite(extractor, category) from error
    if not np.isfinite(scores).all():
        raise not_finite(extractor, category)
    return {
        "threshold_hint": max(scores),
        "map_median": float(torch.cat(levels).median()) if levels else None,
        "map_maximum": float(torch.cat(levels).max()) if levels else None,
    }


def predict(path: Path, images: Sequence[Path], out: Path, weights: str | None = None) -> dict[str, Any]:
    """Score photographs one at a time; write `scores.json` and, where the method has maps, heat maps.

    An unreadable photograph is recorded with its error and does not stop the others.

    Args:
        path: Of a detector.
        images: Photographs, or folders of them.
        out: Receives `scores.json` and `<name>-heat.png`.
        weights: Where the backbone is now, if not under the recorded name.

    Returns:
        What `scores.json` holds.

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
        score, heat = detector.score(extractor(pixels))
        value = float(score)
        if heat is not None:
            heats = scratch((len(files), size, size)) if heats is None else heats
            heats[index] = heat[0].cpu().numpy()
        seconds = time.perf_counter() - started
        above = value > about["threshold_hint"]
        rows.append({"image": str(file), "score": value, "above_hint": above, "seconds": round(seconds, 4)})
    try:
        out.mkdir(parents=True, exist_ok=True)
        ends = _draw(out, files, rows, heats, about) if heats is not None else None
    except OSError as error:
        raise SpdError(f"{out}: cannot be written ({error}); choose another --out") from error
    measured = [row["seconds"] for row in rows if row["score"] is not None]
    content = {
        "detector": {"file": str(path), **about},
        "heat_range": ends,
        "seconds_per_image": statistics.median(measured) if measured else None,
        "device": extractor.device.type,
        "peak_memory_mib": _peak_memory(),
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
    """Save every heat map with the same colours; returns the map values where the colours begin and end.

    They span the training images' maps and these, because a detector of few images finds all new ones far
    from what it knows, and a range of the training maps alone would show nothing but its upper end.
    """
    known = [index for index, row in enumerate(rows) if row["score"] is not None]
    low = max(about["map_median"], float(np.median(heats[known, ::4, ::4])))
    high = max(about["map_maximum"], float(heats[known].max()), low + 1e-6)
    taken = set()
    for index in known:
        name, copies = files[index].stem, 1
        while name in taken:
            copies += 1
            name = f"{files[index].stem}-{copies}"
        taken.add(name)
        photo = read_photo(files[index], _LONG_SIDE, about["settings"]["resize"])
        size = photo.shape[1::-1]
        picture = coloured(photo, np.clip((heats[index] - low) / (high - low), 0, 1), size)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(out / f"{name}-heat.png")
        rows[index]["heat"] = f"{name}-heat.png"
    return [low, high]


def _peak_memory() -> float | None:
    """Of the process, or on a GPU of torch's memory there; None where the system does not tell."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _quiet(stage: str, done: int, of: int) -> None:
    pass
