"""A saved detector at work: scores and pictures of photographs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spd_weights.files import sha256

from ..detectors.saved import load_detector
from ..report.figures import coloured
from .photographs import decode

_LONG_SIDE = 480  # pixels of the photograph in a picture
_GAP = 6  # white pixels between photograph and heat map


@dataclass(frozen=True)
class Inspection:
    """What a detector says about one photograph.

    Attributes:
        file: The photograph.
        score: Higher is more anomalous; None if the photograph could not be scored.
        above: Whether the score is above the threshold; None without a score or a threshold.
        picture: The photograph and, if the method has maps, its heat map beside it, RGB, uint8 [height, width, 3].
        error: Why there is no score, in one sentence.
    """

    file: Path
    score: float | None = None
    above: bool | None = None
    picture: np.ndarray | None = None
    error: str | None = None


class Inspector:
    """A saved detector with its backbone and threshold.

    Attributes:
        run: What the scores depend on, JSON-ready: the detector's description and digest, and the threshold.
        threshold: Scores above it are anomalous; None if the detector has none.
        device: Where the backbone runs.
    """

    def __init__(self, path: Path, weights: str | None = None, threshold: float | None = None) -> None:
        """Load the detector.

        Args:
            path: A file written by `fit`.
            weights: Name of the backbone, if it is no longer available under the recorded name.
            threshold: Instead of the detector's own.

        Raises:
            SpdError: As `load_detector`.
        """
        self._detector, self._extractor, about = load_detector(path, weights)
        self.threshold = about["threshold"] if threshold is None else threshold
        self.device = self._extractor.device.type
        self.run = {"detector": {"sha256": sha256(path), **about}, "threshold": self.threshold}
        self._resize = about["settings"]["resize"]
        # Colours depend on the detector alone, so that pictures of different calls compare.
        self._coolest, self._middle = about["map_median"] or 0.0, about["map_maximum"] or 1.0

    def inspect(self, files: Sequence[Path], workers: int) -> Iterator[Inspection]:
        """Score photographs in batches, in order.

        Args:
            files: The photographs.
            workers: Number of processes that decode them.
        """
        size, batch_size = self._extractor.image_size, self._extractor.batch_size
        for batch in decode(files, size, self._resize, workers, batch_size, _LONG_SIDE):
            yield from (Inspection(file, error=error) for file, error in batch.errors.items())
            if not batch.files:
                continue
            scores, maps = self._detector(self._extractor(batch.images))
            for index, file in enumerate(batch.files):
                heat = None if maps is None else maps[index].cpu().numpy()
                yield self._inspection(file, float(scores[index]), batch.pictures[index], heat)

    def _inspection(self, file: Path, score: float, photo: np.ndarray, heat: np.ndarray | None) -> Inspection:
        if not math.isfinite(score):
            return Inspection(file, error=f"{file}: its score is not finite; check the detector's weights")
        above = None if self.threshold is None else score > self.threshold
        return Inspection(file, score, above, photo if heat is None else self._with_heat(photo, heat))

    def _with_heat(self, photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
        """The photograph beside its heat map.

        Colours start at the median of the maps of normal images that the detector had not seen. Their maximum has the
        middle colour, and values above approach the last colour without reaching it, so that the peak of a strong
        defect stays visible.
        """
        scale = max(self._middle - self._coolest, 1e-6)
        above = np.maximum(heat - self._coolest, 0)
        warm = coloured(photo.astype(np.float32), above / (above + scale), photo.shape[1::-1])
        gap = np.full((len(photo), _GAP, 3), 255, dtype=np.uint8)
        return np.concatenate([photo, gap, np.clip(warm, 0, 255).astype(np.uint8)], axis=1)
