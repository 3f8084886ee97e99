"""From an encoded image to crops: decoded once, every crop cut from the decoded pixels."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


def decode(item: dict[str, Any], boxes: Callable[[int, int], list[Box]], size: int) -> Tensor:
    """Decode an image once and cut boxes out of it, each resized bilinearly with antialiasing.

    Args:
        item: {"bytes", "path"} of an encoded image.
        boxes: given width and height in pixels, the crops.
        size: side of the resized crops, in pixels.

    Returns:
        uint8, (boxes, 3, size, size), RGB.

    Raises:
        Exception: whatever Pillow raises on a file that is no image, or not all of one.
    """
    source = io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]
    with Image.open(source) as image:
        width, height = image.size
        chosen = boxes(width, height)
        # A JPEG is decoded at the smallest eighth that still holds every crop in full resolution.
        shrink = size / min(min(right - left, bottom - top) for left, top, right, bottom in chosen)
        if shrink < 1:
            image.draft("RGB", (math.ceil(width * shrink), math.ceil(height * shrink)))
        pixels = torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))
    shrunk = round(width / pixels.shape[1])  # 1, 2, 4 or 8; a pixel at the border may be partly filled
    crops = torch.empty(len(chosen), 3, size, size, dtype=torch.uint8)
    for crop, box in zip(crops, chosen, strict=True):
        left, top, right, bottom = (round(edge / shrunk) for edge in box)
        cut = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        crop.copy_(F.interpolate(cut.permute(2, 0, 1)[None], (size, size), mode="bilinear", antialias=True)[0])
    return crops


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
