"""`python -m train.data.predecode`: store images as pixels, because decoding takes most of a data worker's time.

The result is a folder of webdataset tars of PPM files, which are not compressed and take several times the space of
JPEGs. A tar is complete or absent: run the same command again to resume.
"""

import io
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError, run_command
from spd_weights.images import IMAGE_FORMATS

from .sources import Table, open_images


@dataclass(frozen=True)
class Predecode:
    """Store images as pixels, in webdataset tars for --data.train, --data.val or --probe.knn-bank."""

    data: str
    """The images: anything that --data.train takes."""
    out: Path
    """The folder to write."""
    split: Literal["train", "val"] = "train"
    """The split to store, if the source has several; the tars are named after it."""
    labelled: bool = False
    """Store labels as well. Only self-supervised training does without."""
    short_side: int | None = None
    """Shrink larger images to this short side, in pixels. By default, images keep their size."""
    per_tar: int = 1000
    """Number of images in each tar."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Number of processes that decode."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(lambda: store(tyro.cli(Predecode, prog=f"python -m {__package__}.predecode", args=arguments)))


def store(given: Predecode) -> None:
    """Write the tars that do not exist yet, and name the images that cannot be read.

    Raises:
        SpdError: an option is out of range, the images cannot be opened, or a tar cannot be written.
    """
    for option in ("short_side", "per_tar", "workers"):
        if (value := getattr(given, option)) is not None and value < 1:
            raise SpdError(f"--{option.replace('_', '-')} {value}: it must be at least 1")
    tars = Tars(open_images(given.data, given.labelled, given.split), given)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for unreadable in DataLoader(tars, batch_size=None, num_workers=given.workers):
            for reason in unreadable:
                print(f"left out an unreadable image: {reason}", file=sys.stderr, flush=True)
    except OSError as error:
        raise SpdError(f"--out {given.out} cannot be written: {error.strerror}") from error
    except SpdError as error:  # a worker's error arrives with its traceback in front
        raise SpdError(str(error).rpartition("SpdError: ")[2].strip()) from None
    print(f"{len(tars)} tars in {given.out}; train on them with --data.{given.split} {given.out}")


class Tars(Dataset[list[str]]):
    """The tars to write: taking an item writes it."""

    def __init__(self, table: Table, given: Predecode) -> None:
        """Share the images of a table out, in order."""
        self.table, self.given = table, given

    def __len__(self) -> int:
        """Number of tars."""
        return -(-len(self.table) // self.given.per_tar)

    def __getitem__(self, number: int) -> list[str]:
        """Write a tar, unless it exists; returns file and reason of each image that cannot be read."""
        tar = self.given.out / f"{self.given.split}-{number:05d}-of-{len(self):05d}.tar"
        if tar.exists():
            return []
        unreadable, staging, first = [], tar.with_suffix(".partial"), number * self.given.per_tar
        try:
            with tarfile.open(staging, "w") as file:
                for index in range(first, min(first + self.given.per_tar, len(self.table))):
                    row = self.table[index]
                    try:
                        pixels = _as_ppm(row["image"], self.given.short_side)
                    except Exception as error:  # a bad file can make a decoder raise anything
                        unreadable.append(f"{row['image']['path'] or f'image {index}'}: {error}")
                        continue
                    _add(file, f"{index:08d}.ppm", pixels)
                    if self.given.labelled:
                        _add(file, f"{index:08d}.cls", self.table.features["label"].int2str(row["label"]).encode())
            os.rename(staging, tar)
        except OSError as error:
            raise SpdError(f"{staging} cannot be written: {error.strerror}") from error
        return unreadable


def _as_ppm(item: dict[str, Any], short_side: int | None) -> bytes:
    source = item["path"] if item["bytes"] is None else io.BytesIO(item["bytes"])
    with Image.open(source, formats=IMAGE_FORMATS) as opened:
        image = opened.convert("RGB")
    if short_side and (larger := min(image.size) / short_side) > 1:
        width, height = (round(side / larger) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    image.save(content, "PPM")
    return content.getvalue()


def _add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    file.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(main())
