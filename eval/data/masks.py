"""The masks of many images: checked before any work, and read as one array."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .datasets import Category, Sample
from .images import read_mask, whole_mask
from .scratch import scratch


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
