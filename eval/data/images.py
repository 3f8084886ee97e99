"""Images and masks resized to squares, both with the same geometry."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError
from spd_weights.images import IMAGE_FORMATS

RESIZES = ("square", "short-crop")
_SHORT_CROP = 224 / 256
# What Pillow raises; damaged EXIF data end in any of the first four.
_UNREADABLE = (AttributeError, TypeError, ValueError, struct.error, OSError, SyntaxError, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """Open an image and read only its header.

    Raises:
        SpdError: The file is missing or is not an image.
    """
    try:
        return Image.open(path, formats=IMAGE_FORMATS)
    except FileNotFoundError:
        raise SpdError(f"{path}: no such file; restore it, or remove it from the split") from None
    except _UNREADABLE as error:
        raise SpdError(f"{path}: not a readable image ({error}); replace or remove the file") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, as it is displayed: rotated by its EXIF orientation, if it has one.

    Raises:
        SpdError: As `open_image`.
    """
    with open_image(path) as image:
        width, height = image.size
        # For a PNG without EXIF data in its header, getexif() would decode the whole image.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        return (height, width) if exif.get(ExifTags.Base.Orientation, 1) >= 5 else (width, height)


def seen_box(size: tuple[int, int], resize: str) -> tuple[float, float, float, float]:
    """The part of an image that is evaluated: left, top, right and bottom in pixels.

    Args:
        size: Width and height of the image.
        resize: "square" for the whole image, so that defects near a border stay visible; "short-crop" for a central
            square of 224 / 256 of the shorter side, the usual crop in the literature.
    """
    width, height = size
    if resize == "square":
        return 0, 0, width, height
    side = _SHORT_CROP * min(size)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def read_image(path: Path, size: int, resize: str = "square") -> np.ndarray:
    """Read an image and resize it to a square.

    Uses Pillow's bicubic filter with antialiasing, as timm's evaluation transforms do. `read_mask` has the same
    geometry, so masks stay aligned.

    Args:
        path: An image with 8 or 16 bits per channel; of 16 bits the high byte is taken. Grey and palette images become
            RGB, an alpha channel is dropped. The EXIF orientation is applied.
        size: Side of the square in pixels.
        resize: One of `RESIZES`; see `seen_box`.

    Returns:
        RGB, uint8, shape [size, size, 3].

    Raises:
        SpdError: The file is missing, truncated or not an image, has 32 bits per channel, or uses only 12 of 16 bits.
    """
    return to_square(read_upright(path), size, resize)


def to_square(image: Image.Image, size: int, resize: str) -> np.ndarray:
    """Resize an RGB image as in `read_image`; uint8, shape [size, size, 3]."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, seen_box(image.size, resize)))


def read_upright(path: Path) -> Image.Image:
    """Read an image at its own size: RGB, turned by its EXIF orientation; values and errors as in `read_image`."""
    with open_image(path) as image:
        if image.mode in ("I", "F"):
            raise SpdError(f"{path}: 32 bits per channel (mode {image.mode}); convert it to 8 or 16 bits")
        upright = _decode(image, path)
    if upright.mode.startswith("I;16"):
        upright = _high_bytes(np.asarray(upright), path)
    return upright.convert("RGB")


def read_photo(path: Path, long_side: int, resize: str) -> np.ndarray:
    """Read the evaluated part of an image in its own aspect ratio, for display; at most `long_side` pixels per side.

    Returns:
        RGB in [0, 255], float32, shape [height, width, 3].

    Raises:
        SpdError: As `read_image`.
    """
    left, top, right, bottom = seen_box(image_size(path), resize)
    scale = min(1.0, long_side / max(right - left, bottom - top))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    square = Image.fromarray(read_image(path, max(size), resize))
    return np.asarray(square.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)


def read_mask(path: Path, size: int, resize: str = "square") -> np.ndarray:
    """Read a defect mask and resize it to a square by nearest neighbour.

    Masks hold 0 for background and 255 or a class id (VisA: 1 to 9) for defects, so any non-zero value is a defect.

    Args:
        path: An image with one or more channels; an alpha channel is ignored.
        size: Side of the square in pixels.
        resize: One of `RESIZES`; see `seen_box`.

    Returns:
        bool, shape [size, size]. Small defects can vanish if the square is much smaller than the mask, and
        defects near a border can lie outside the crop.

    Raises:
        SpdError: The file is missing or unreadable, or marks no pixel at its native size.
    """
    whole = Image.fromarray(whole_mask(path).view(np.uint8))
    square = whole.resize((size, size), Image.Resampling.NEAREST, seen_box(whole.size, resize))
    return np.asarray(square).view(bool)


def whole_mask(path: Path) -> np.ndarray:
    """Read a mask at its native size, bool, shape [height, width]; values and errors as in `read_mask`."""
    with open_image(path) as image:
        values = np.asarray(_decode(image, path))
        channels = len(image.getbands()) - ("A" in image.getbands())
    defect = values.reshape(*values.shape[:2], -1)[..., :channels].any(axis=-1)
    if not defect.any():
        raise SpdError(f"{path}: the mask of an anomaly marks no pixel; fix the mask, or list the image as normal")
    return defect


def batches(
    paths: Sequence[Path], size: int, batch_size: int, workers: int, resize: str = "square"
) -> Iterator[Tensor]:
    """Decode images in worker processes, in order.

    Yields:
        RGB batches, uint8, shape [B, 3, size, size].

    Raises:
        SpdError: As `read_image`.
    """
    loader = DataLoader(
        _Squares(paths, size, resize), batch_size=batch_size, num_workers=min(workers, len(paths)), collate_fn=_collate
    )
    for batch in loader:
        if isinstance(batch, SpdError):
            raise batch
        yield batch


class _Squares(Dataset[Tensor | SpdError]):
    def __init__(self, paths: Sequence[Path], size: int, resize: str) -> None:
        self._paths, self._size, self._resize = paths, size, resize

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor | SpdError:
        try:
            pixels = read_image(self._paths[index], self._size, self._resize)
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        except SpdError as error:  # raised in a worker, it would arrive wrapped in a traceback
            return error


def _collate(items: list[Tensor | SpdError]) -> Tensor | SpdError:
    for item in items:
        if isinstance(item, SpdError):
            return item
    return torch.stack(items)


def _decode(image: Image.Image, path: Path) -> Image.Image:
    """The pixels of an opened image, in its EXIF orientation."""
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # the other way copies every image
        return image
    except _UNREADABLE as error:
        raise SpdError(f"{path}: damaged image ({error}); replace or remove the file") from None


def _high_bytes(values: np.ndarray, path: Path) -> Image.Image:
    """A 16-bit grey image as 8 bits, by one scale for all images, so that their brightness stays comparable."""
    if (bits := int(values.max()).bit_length()) <= 12:
        raise SpdError(
            f"{path}: its values use only {bits} of 16 bits, which would leave a dark image with few shades; "
            "scale all images to 16 bits, or convert them to 8 bits"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))
