"""From an encoded image to crops: each image is decoded once, and every crop is cut from the decoded pixels."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from spd_weights.images import IMAGE_FORMATS

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""

_TRIES = 10  # as torchvision's RandomResizedCrop
_PPM = re.compile(rb"P6\n(\d+) (\d+)\n255\n")


class CropDraws(NamedTuple):
    """Random numbers of a crop, uniform in [0, 1); arrays may have leading batch dimensions."""

    areas: np.ndarray
    """(…, 10): one per try; likewise `aspects`."""
    aspects: np.ndarray
    left: np.ndarray
    top: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "CropDraws":
        """Name the columns of (…, 23) uniforms."""
        tries = u[..., : 2 * _TRIES]
        return cls(tries[..., ::2], tries[..., 1::2], *np.moveaxis(u[..., 2 * _TRIES :], -1, 0))


def decode(item: dict[str, Any], boxes: Callable[[int, int], list[Box]], out: Tensor) -> None:
    """Decode an image once and cut boxes out of it, each resized bilinearly with antialiasing.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that still has every pixel that the crops need. A PPM file
    (`train.data.predecode`) needs no decoding.

    Args:
        item: {"bytes", "path"} of an encoded image.
        boxes: returns the crops for a width and height in pixels.
        out: uint8, (boxes, 3, S, S), RGB: filled with the crops.

    Raises:
        Exception: whatever Pillow raises if the file is not an image, or not a whole one.
    """
    data = item["bytes"] if item["bytes"] is not None else Path(item["path"]).read_bytes()
    if (stored := _ppm(data)) is not None:
        _cut(stored, boxes(stored.shape[1], stored.shape[0]), 1, out)
        return
    try:
        height, width, colorspace, _ = decode_jpeg_header(data)
        chosen = boxes(width, height)
        reduction = _reduction(chosen, out.shape[-1])
        if colorspace in ("CMYK", "YCCK") or width * height > 2 * Image.MAX_IMAGE_PIXELS * reduction**2:
            raise ValueError("Pillow converts CMYK, and names decompression bombs")
        pixels = decode_jpeg(data, min_factor=reduction, min_height=height // reduction, min_width=width // reduction)
    except ValueError:  # not a JPEG, or a flawed one: Pillow reads it or names the flaw
        reduction = 1
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            chosen = boxes(*image.size)
            pixels = np.array(image.convert("RGB"))
    _cut(pixels, chosen, reduction, out)


def _ppm(data: bytes) -> np.ndarray | None:
    """The pixels (H, W, 3) of a PPM file as Pillow writes it; None for any other file."""
    header = _PPM.match(data)
    if header is None or len(data) != header.end() + 3 * int(header[1]) * int(header[2]):
        return None
    pixels = np.frombuffer(data, np.uint8, offset=header.end())
    return pixels.reshape(int(header[2]), int(header[1]), 3).copy()  # torch wants arrays that can be written


def _cut(pixels: np.ndarray, chosen: list[Box], reduction: int, out: Tensor) -> None:
    """Fill `out` with boxes of an image that was decoded at 1 / reduction of its size."""
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for crop, box in zip(out, chosen, strict=True):
        left, top, right, bottom = (round(edge / reduction) for edge in box)
        cut = whole[..., top : max(bottom, top + 1), left : max(right, left + 1)]
        crop.copy_(F.interpolate(cut, crop.shape[1:], mode="bilinear", antialias=True)[0])


def _reduction(boxes: list[Box], size: int) -> int:
    """The largest factor by which a JPEG can be decoded smaller without enlarging any crop."""
    limit = min(min(right - left, bottom - top) for left, top, right, bottom in boxes) / size
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(limit, 1))


def random_resized_crop(draws: CropDraws, width: int, height: int, area: tuple[float, float]) -> Box:
    """Choose a crop with the distribution of torchvision's RandomResizedCrop.

    Args:
        draws: for one crop.
        width: of the image, in pixels.
        height: of the image, in pixels.
        area: smallest and largest share of the image's area; the aspect is log-uniform in (3/4, 4/3).

    Returns:
        The first try that fits the image, or the largest centred crop with an aspect in the range.
    """
    for share, aspect in zip(draws.areas.tolist(), draws.aspects.tolist(), strict=True):
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        ratio = 0.75 ** (1 - 2 * aspect)  # log-uniform
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(draws.left * (width - w + 1)), int(draws.top * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
