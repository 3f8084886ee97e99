"""Find photographs, and decode them several at a time."""

import glob
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError
from spd_weights.files import sha256
from spd_weights.images import IMAGE_SUFFIXES

from ..data.images import read_upright, seen_box

SMALLEST = 16  # pixels of a photograph's shorter side; a smaller file is a thumbnail or a mistake


@dataclass
class Batch:
    """Decoded photographs, in the order in which they were given.

    Attributes:
        files: The readable ones.
        images: Their squares as a backbone takes them, RGB, uint8 [B, 3, S, S].
        pictures: Copies for display in their own aspect ratio, uint8 [height, width, 3] each; empty unless asked for.
        errors: One sentence per unreadable photograph.
    """

    files: list[Path] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    pictures: list[np.ndarray] = field(default_factory=list)
    errors: dict[Path, str] = field(default_factory=dict)


def find_photographs(names: Sequence[Path], ignored: Path | None = None) -> list[Path]:
    """List the photographs that a user names.

    Args:
        names: Files; folders, which are searched to any depth; or patterns such as `photos/*.png`. Hidden files and
            folders are skipped. In folders and patterns only files with a suffix of `IMAGE_SUFFIXES` count.
        ignored: A folder whose photographs are left out.

    Returns:
        Each photograph once, in the order of `names`, and sorted within each.

    Raises:
        SpdError: A name does not exist, or there is no photograph in it.
    """
    found: dict[str, Path] = {}
    for name in names:
        if name.is_dir():
            files = photographs_in(name, ignored)
        elif name.exists():
            files = [name]
        elif glob.has_magic(str(name)):
            files = sorted(Path(match) for match in glob.iglob(str(name), recursive=True) if _is_photograph(match))
            files = [file for file in files if not _is_below(file.parent, ignored)]
        else:
            raise SpdError(f"{name}: no such photograph or folder")
        if not files:
            raise SpdError(f"{name}: no photograph in it; these are files with {', '.join(sorted(IMAGE_SUFFIXES))}")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def photographs_in(folder: Path, ignored: Path | None = None) -> list[Path]:
    """The photographs in a folder and below, sorted; hidden ones and those below `ignored` are left out."""
    found = []
    for parent, subfolders, files in os.walk(folder, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if _is_below(Path(parent), ignored):
            subfolders.clear()
            continue
        found += [Path(parent, file) for file in files if _is_photograph(file)]
    return sorted(found)


def _refuse(error: OSError) -> None:
    """Name a folder that cannot be listed: its photographs would be missing without a word."""
    if not isinstance(error, FileNotFoundError):  # removed meanwhile
        raise SpdError(f"{error.filename}: cannot be searched ({error.strerror}); allow it, or name other folders")


def _is_below(folder: Path, other: Path | None) -> bool:
    return other is not None and folder.resolve().is_relative_to(other.resolve())


def _is_photograph(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def copies(files: Sequence[Path]) -> dict[Path, Path]:
    """Map each file that is a byte-for-byte copy of an earlier one to that one; unreadable ones are left out."""
    first: dict[str, Path] = {}
    found = {}
    for file in files:
        with suppress(SpdError):
            if (original := first.setdefault(sha256(file), file)) != file:
                found[file] = original
    return found


def decode(
    files: Sequence[Path], size: int, resize: str, workers: int, batch_size: int, long_side: int | None = None
) -> Iterator[Batch]:
    """Decode photographs in worker processes, in order. Unreadable ones are reported in the batch, not raised.

    Args:
        files: The photographs.
        size: Side of the square in pixels.
        resize: One of `eval.data.images.RESIZES`.
        workers: Number of processes; 0 decodes in this one.
        batch_size: Photographs per batch, unreadable ones included.
        long_side: Also return copies for display with at most this many pixels per side.
    """
    yield from DataLoader(
        _Photographs(files, size, resize, long_side),
        batch_size=batch_size,
        num_workers=min(workers, len(files)),
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
    )


_Item = tuple[Path, Tensor | str, np.ndarray | None]  # the square, or the reason why there is none


class _Photographs(Dataset[_Item]):
    def __init__(self, files: Sequence[Path], size: int, resize: str, long_side: int | None) -> None:
        self._files, self._size, self._resize, self._long_side = files, size, resize, long_side

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> _Item:
        file = self._files[index]
        try:
            image = read_upright(file)
        except SpdError as error:
            return file, str(error), None
        if min(image.size) < SMALLEST:
            return file, f"{file}: {image.width} x {image.height} pixels are too few to inspect; replace the file", None
        box = seen_box(image.size, self._resize)
        square = image.resize((self._size, self._size), Image.Resampling.BICUBIC, box)
        picture = None
        if self._long_side:
            scale = min(1.0, self._long_side / max(box[2] - box[0], box[3] - box[1]))
            sides = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
            picture = np.asarray(image.resize(sides, Image.Resampling.BICUBIC, box))
        return file, torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy()), picture


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the main process; otherwise each worker would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: Sequence[_Item]) -> Batch:
    batch, squares = Batch(), []
    for file, square, picture in items:
        if isinstance(square, str):
            batch.errors[file] = square
            continue
        batch.files.append(file)
        squares.append(square)
        if picture is not None:
            batch.pictures.append(picture)
    if squares:
        batch.images = torch.stack(squares)
    return batch
