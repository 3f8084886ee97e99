"""The masks of many images: checked before any work, and read as one array or at their native sizes."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .datasets import Category, Sample
from .images import image_size, read_mask, seen_box, whole_mask
from .scratch import scratch

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class NativeMasks:
    """Defect pixels of several images at their native sizes, read anew at each iteration.

    Attributes:
        samples: The images.
        resize: The part of them that is evaluated; one of `eval.data.images.RESIZES`.
    """

    samples: Sequence[Sample]
    resize: str

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield bool [height, width], all False for normal images."""
        for sample in self.samples:
            yield _native_mask(sample, self.resize)


@dataclass(frozen=True)
class DefectMasks:
    """The defects of a category's test images.

    Attributes:
        square: bool [N, S, S], at the size that the method sees.
        scored: The masks that pixel metrics use: `square`, or those at native size.
        regions: Number of 8-connected defect regions in the masks as they are stored.
        left_out: How many of them have no pixel in `scored`: too small for its size, or outside the crop.
    """

    square: np.ndarray
    scored: np.ndarray | NativeMasks
    regions: int
    left_out: int


def defect_masks(samples: Sequence[Sample], image_size: int, resize: str, map_size: str) -> DefectMasks | None:
    """Read the masks that a category's metrics and figures need.

    Args:
        samples: The test images.
        image_size: Side S of the squares that the method sees.
        resize: One of `eval.data.images.RESIZES`.
        map_size: "input" to score pixels at S, "native" at the size of each mask.

    Returns:
        None if no image has a mask.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    square = read_masks(samples, image_size, resize)
    if square is None:
        return None
    native = map_size == "native"
    counts = [count_regions(sample, None if native else image_size, resize) for sample in samples if sample.mask]
    regions, visible = map(sum, zip(*counts, strict=True))
    return DefectMasks(square, NativeMasks(samples, resize) if native else square, regions, regions - visible)


def count_regions(sample: Sample, size: int | None, resize: str) -> tuple[int, int]:
    """Count the 8-connected defect regions of an anomaly with a mask.

    Args:
        sample: The anomaly.
        size: Side of the square to which the mask is resized; None for its native size.
        resize: One of `eval.data.images.RESIZES`.

    Returns:
        All regions, and those with a pixel in the resized mask.
    """
    assert sample.mask is not None
    labels, regions = ndimage.label(whole_mask(sample.mask), structure=EIGHT_CONNECTED)
    if size is None:
        seen = _crop(labels, resize)
    else:
        whole = Image.fromarray(labels.astype(np.int32))
        box = seen_box(whole.size, resize)
        seen = np.asarray(whole.resize((size, size), Image.Resampling.NEAREST, box))
    return regions, np.unique(seen[seen > 0]).size


def _native_mask(sample: Sample, resize: str) -> np.ndarray:
    if sample.mask:
        return _crop(whole_mask(sample.mask), resize)
    width, height = image_size(sample.image)
    return _crop(np.zeros((height, width), dtype=bool), resize)


def _crop(pixels: np.ndarray, resize: str) -> np.ndarray:
    """The evaluated part of [height, width], its borders rounded to whole pixels."""
    left, top, right, bottom = map(round, seen_box(pixels.shape[::-1], resize))
    return pixels[top:bottom, left:right]


def check_masks(categories: Sequence[Category]) -> None:
    """Read every mask once, so that an empty one is found before hours of work and not after.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    masks = {s.mask: None for category in categories for s in (*category.train, *category.test) if s.mask}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        for _ in pool.map(whole_mask, masks):
            pass


def read_masks(samples: Sequence[Sample], image_size: int, resize: str = "square") -> np.ndarray | None:
    """The defect pixels of several images.

    Returns:
        bool [N, S, S], all False for normal images; None if no image has a mask.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    if not any(sample.mask for sample in samples):
        return None
    masks = scratch((len(samples), image_size, image_size), np.bool_)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask:
            mask[:] = read_mask(sample.mask, image_size, resize)
    return masks
