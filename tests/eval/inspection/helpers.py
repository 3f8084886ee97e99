"""Small detectors for the tests."""

from pathlib import Path

from eval.detectors.methods import Settings
from eval.inspection.fit import FitOptions, fit
from eval.inspection.photographs import find_photographs

SETTINGS = Settings(image_size=64, padim_dims=8, coreset_ratio=0.3)


def fitted(place: Path, folder: Path, method: str = "padim", weights: str | None = None, tiles: int = 1) -> Path:
    """Fit a detector on `place`'s normal photographs; returns its file in `folder`."""
    file = folder / f"{method}.safetensors"
    normal = find_photographs([place / "set" / "tile" / "train"])
    fit(normal, file, FitOptions(weights or str(place / "run"), method, SETTINGS, tiles, workers=0))
    return file
