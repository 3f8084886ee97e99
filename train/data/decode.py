"""From an encoded image to crops: decoded once, every crop cut from the decoded pixels."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


def decode(item: dict[str, Any], boxes: Callable[[int, int], list[Box]], out: Tensor) -> None:
    """Decode an image once and cut boxes out of it, each resized bilinearly with antialiasing.

    Args:
        item: {"bytes", "path"} of an encoded image.
        boxes: given width and height in pixels, the crops.
        out: uint8, (boxes, 3, S, S), RGB: filled with the crops.

    Raises:
        Exception: whatever Pillow raises on a file that is no image, or not all of one.
    """
    data = item["bytes"] if item["bytes"] is not None else Path(item["path"]).read_bytes()
    try:
        height, width, colorspace, _ = decode_jpeg_header(data)
        chosen = boxes(width, height)
        reduced = _reduction(chosen, out.shape[-1])
        if colorspace in ("CMYK", "YCCK") or width * height > 2 * Image.MAX_IMAGE_PIXELS * reduced**2:
            raise ValueError("for Pillow, which knows how inks mix, and the name of a decompression bomb")
        pixels = decode_jpeg(data, min_factor=reduced, min_height=height // reduced, min_width=width // reduced)
    except ValueError:  # not a JPEG, or one with a flaw, which Pillow forgives or names
        reduced = 1
        with Image.open(io.BytesIO(data)) as image:
            chosen = boxes(*image.size)
            pixels = np.array(image.convert("RGB"))
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for crop, box in zip(out, chosen, strict=True):
        left, top, right, bottom = (round(edge / reduced) for edge in box)
        cut = whole[..., top : max(bottom, top + 1), left : max(right, left + 1)]
        crop.copy_(F.interpolate(cut, crop.shape[1:], mode="bilinear", antialias=True)[0])


def _reduction(boxes: list[Box], size: int) -> int:
    """How many times smaller a JPEG can be decoded, which saves time, with all that its crops need."""
    most = min(min(right - left, bottom - top) for left, top, right, bottom in boxes) / size
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(most, 1))


def random_resized_crop(uniforms: np.ndarray, width: int, height: int, area: tuple[float, float]) -> Box:
    """Choose a crop as torchvision's RandomResizedCrop does, from given random numbers.

    Args:
        uniforms: (22,) in [0, 1): ten tries of (area, aspect), then the position.
        width: of the image, in pixels.
        height: of the image, in pixels.
        area: least and greatest share of the image's area; the aspect is log-uniform in (3/4, 4/3).

    Returns:
        The first try that fits. Where none does, the largest centred crop whose aspect is in the range.
    """
    *tries, across, down = uniforms.tolist()
    for share, aspect in zip(tries[::2], tries[1::2], strict=True):
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        ratio = 0.75 ** (1 - 2 * aspect)  # log-uniform
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
