"""How well a fitted detector finds known defects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spd_weights.errors import SpdError

from ..backbone.tiles import AnyExtractor
from ..data.images import image_size, read_mask, whole_mask
from ..detectors.base import Detector
from ..metrics import ranking
from ..predictions import ReportProgress
from .photographs import decode, find_photographs
from .tradeoff import TradeOff


def measure(
    detector: Detector,
    extractor: AnyExtractor,
    normal: np.ndarray,
    defects: Sequence[Path],
    mask_of: Mapping[Path, Path],
    resize: str,
    workers: int,
    progress: ReportProgress,
) -> tuple[TradeOff, list[str]]:
    """Score photographs of defective parts.

    Args:
        detector: Fitted.
        extractor: Its backbone.
        normal: Scores of good parts that the detector had not seen, float32 [N].
        defects: Photographs of defective parts.
        mask_of: Their masks, as `masks_of` returns them; may be empty.
        resize: One of `eval.data.images.RESIZES`.
        workers: Number of processes that decode photographs.
        progress: Called after each batch.

    Returns:
        The trade-off, and one sentence per photograph that was not scored.

    Raises:
        SpdError: No photograph could be read.
    """
    scores, inside, outside, errors = [], [], [], []
    for batch in decode(defects, extractor.image_size, resize, workers, extractor.batch_size):
        errors += batch.errors.values()
        if batch.files:
            of_batch, maps = detector(extractor(batch.images))
            scores.append(of_batch.cpu().numpy())
            for index, file in enumerate(batch.files):
                if maps is not None and file in mask_of:
                    mask = read_mask(mask_of[file], extractor.image_size, resize)
                    heat = maps[index].cpu().numpy()
                    inside.append(heat[mask])
                    outside.append(heat[~mask])
        progress("defects", sum(map(len, scores)) + len(errors), len(defects))
    if not scores:
        raise SpdError(f"--defects: no photograph could be read ({'; '.join(errors[:3])})")
    pixels = None
    if inside and any(len(part) for part in inside):
        pixels = ranking.average_precision(ranking.rank(np.concatenate(inside), np.concatenate(outside)))
    return TradeOff(normal, np.concatenate(scores), pixels), errors


def masks_of(defects: Sequence[Path], masks: Path) -> dict[Path, Path]:
    """Find the masks of photographs by name: `<photograph>.png` or `<photograph>_mask.png`, at any depth.

    Where several folders have a mask of that name, the mask's folder must be called like the photograph's.

    Raises:
        SpdError: The folder has no mask of these photographs, more than one of a photograph, or one of another size; or
            a mask is unreadable or marks nothing.
    """
    named: dict[str, list[Path]] = {}
    for mask in find_photographs([masks]):
        named.setdefault(mask.stem.removesuffix("_mask"), []).append(mask)
    found = {}
    for file in defects:
        candidates = [mask for mask in named.get(file.stem, []) if not mask.samefile(file)]
        if len(candidates) > 1:
            candidates = [mask for mask in candidates if mask.parent.name == file.parent.name]
            if len(candidates) != 1:
                raise SpdError(f"{masks}: several masks called {file.stem}, and not one in a folder {file.parent.name}")
        if candidates:
            found[file] = candidates[0]
            whole_mask(candidates[0])
            if image_size(file) != image_size(candidates[0]):
                raise SpdError(f"{candidates[0]}: not the size of {file}; use the mask of the same photograph")
    if not found:
        raise SpdError(f"{masks}: no mask of these photographs; masks are called <photograph>.png or ..._mask.png")
    return found
