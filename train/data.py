"""Images in, crops out: a table of encoded images read through `datasets`, decoded once a visit."""

import glob
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError
from train.config import Config
from train.randomness import between, log_between, permutation, uniforms

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_SHARDS = {".parquet": "parquet", ".tar": "webdataset"}


def open_images(source: str) -> datasets.Dataset:
    """Open a collection of images without decoding any.

    Args:
        source: a folder of images (searched through), a folder of parquet files or webdataset tars
            (those whose names begin with "train", where some do), or hf:owner/dataset[:config], of
            which the split "train" is read.

    Returns:
        A table with one column, `image`: {"bytes", "path"}, as stored.

    Raises:
        SpdError: there is nothing there, or nothing that looks like images.
    """
    if source.startswith("hf:"):
        name, _, config = source.removeprefix("hf:").partition(":")
        try:
            table = datasets.load_dataset(name, config or None, split="train")
        except Exception as error:  # the Hub, the network, the cache: the library's message names which
            raise SpdError(f"{source}: the dataset could not be opened: {error}") from error
        return _encoded(table, source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise SpdError(
            f"{source}: no such folder; --data.train takes a folder of images or shards, or hf:owner/dataset"
        )
    for suffix, builder in _SHARDS.items():
        shards = sorted(glob.glob(glob.escape(str(folder)) + f"/**/*{suffix}", recursive=True))
        shards = [shard for shard in shards if Path(shard).name.startswith("train")] or shards
        if shards:
            return _encoded(datasets.load_dataset(builder, data_files=shards, split="train"), source)
    return _image_files(folder)


def _encoded(table: datasets.Dataset, source: str) -> datasets.Dataset:
    columns = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    columns += [name for name in ("image", "img", "jpg", "png") if name in table.column_names]
    if not columns:
        raise SpdError(f"{source}: no image column among {table.column_names}")
    table = table.select_columns(columns[0])
    if columns[0] != "image":
        table = table.rename_column(columns[0], "image")
    return table.cast_column("image", datasets.Image(decode=False))


def _image_files(folder: Path) -> datasets.Dataset:
    paths = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths += [
            os.path.join(parent, name)
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(".")
        ]
    if not paths:
        raise SpdError(
            f"{folder}: no images in it or below; looked for {', '.join(sorted(_SUFFIXES))}, .parquet and .tar"
        )
    table = datasets.Dataset.from_dict({"image": paths}, features=datasets.Features({"image": datasets.Image()}))
    return table.cast_column("image", datasets.Image(decode=False))


@dataclass
class Batch:
    """What a process trains on in a step."""

    crops: Tensor
    """uint8, (B, 2, 3, S, S): two random crops of each image."""
    indices: np.ndarray
    """int64, (B,): the images' numbers in the table."""
    epoch: int
    bad: dict[int, str]
    """Images that could not be read, number to file and reason: a neighbour took the place of each. Once
    there are more than the run allows, crops are left unfilled: the run has to stop."""

    def pin_memory(self) -> "Batch":
        """Let the copy to a GPU overlap with work there (called by the data loader)."""
        self.crops = self.crops.pin_memory()
        return self


class Crops(Dataset[Batch]):
    """Random crops of a table's images; indexed by (epoch, index) so that it carries no state."""

    def __init__(self, table: datasets.Dataset, config: Config) -> None:
        """Wrap a table from `open_images`."""
        self.table = table
        self.size, self.area, self.seed = config.data.image_size, config.augment.crop_area, config.seed
        self.allowed_bad = int(config.data.max_bad_fraction * len(table))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Decode the images of a batch once each and cut both crops of each.

        Args:
            keys: (epoch, index), all of one epoch.
        """
        epoch, indices = keys[0][0], np.array([index for _, index in keys])
        draws = [uniforms(self.seed, epoch, indices, f"crop {view}", 22) for view in range(2)]
        crops = np.empty((len(keys), 2, self.size, self.size, 3), np.uint8)
        bad: dict[int, str] = {}
        for row, item in enumerate(self.table[indices.tolist()]["image"]):
            where = int(indices[row])
            while len(bad) <= self.allowed_bad:
                try:
                    crops[row] = self._cut(item, [draw[row] for draw in draws])
                    break
                except Exception as error:  # whatever a decoder throws, it means this file is bad
                    bad[where] = f"{item['path'] or 'stored image'} (number {where}): {error}"
                where = (where + 1) % len(self.table)  # the neighbour, whichever worker it is
                item = self.table[where]["image"]
        return Batch(torch.from_numpy(crops).permute(0, 1, 4, 2, 3), indices, epoch, bad)

    def _cut(self, item: dict[str, Any], draws: list[np.ndarray]) -> np.ndarray:
        """Decode one image and cut its crops: uint8, (2, S, S, 3)."""
        source = io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]
        with Image.open(source) as image:
            width, height = image.size
            boxes = np.stack([random_resized_crop(draw, width, height, self.area) for draw in draws])
            # A JPEG is decoded at the smallest eighth that still holds every crop in full resolution.
            shrink = min(1.0, float((self.size / (boxes[:, 2:] - boxes[:, :2])).max()))
            image.draft("RGB", (int(np.ceil(width * shrink)), int(np.ceil(height * shrink))))
            rgb = image.convert("RGB")
        boxes = boxes * np.array([rgb.width / width, rgb.height / height] * 2)
        side = (self.size, self.size)
        return np.stack([np.asarray(rgb.resize(side, Image.Resampling.BILINEAR, box=tuple(box))) for box in boxes])


def random_resized_crop(uniforms: np.ndarray, width: int, height: int, area: tuple[float, float]) -> np.ndarray:
    """Choose a crop as torchvision's RandomResizedCrop does, from given random numbers.

    Args:
        uniforms: (22,) in [0, 1): ten tries of (area, aspect), then the position.
        width: of the image, in pixels.
        height: of the image, in pixels.
        area: least and greatest share of the image's area; the aspect is log-uniform in (3/4, 4/3).

    Returns:
        left, top, right, bottom in whole pixels. Where no try fits, the largest centred crop whose
        aspect is in the range.
    """
    target = width * height * between(uniforms[0:20:2], *area)
    aspect = log_between(uniforms[1:20:2], 3 / 4, 4 / 3)
    widths, heights = np.round(np.sqrt(target * aspect)), np.round(np.sqrt(target / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    if fits.any():
        first = int(np.argmax(fits))
        w, h = widths[first], heights[first]
        left, top = np.floor(uniforms[20] * (width - w + 1)), np.floor(uniforms[21] * (height - h + 1))
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return np.array([left, top, left + w, top + h], dtype=np.float64)


class Schedule:
    """Which images each step sees, as a function of the seed and the step: resuming is starting later."""

    def __init__(self, images: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        """Lay out the epochs.

        Args:
            images: how many there are; what does not fill a batch is left to another epoch's order.
            batch_size: global.
            seed: decides the order of every epoch.
            rank: this process, in [0, processes).
            processes: how many share a batch.

        Raises:
            SpdError: the batch is larger than the dataset or does not divide by the processes.
        """
        if batch_size > images:
            raise SpdError(f"--optim.batch-size {batch_size} is more than the {images} images there are")
        if batch_size % processes:
            raise SpdError(f"--optim.batch-size {batch_size} does not divide by {processes} processes")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.share = rank, batch_size // processes
        self.steps_per_epoch = images // batch_size

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """The (epoch, index) keys of this process's share of the steps start … stop - 1."""
        order, ordered = np.empty(0, np.int64), -1
        for step in range(start, stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != ordered:
                order, ordered = permutation(self.seed, epoch, self.images), epoch
            first = position * self.batch_size + self.rank * self.share
            yield [(epoch, int(index)) for index in order[first : first + self.share]]


def make_loader(dataset: Crops, schedule: Schedule, start: int, stop: int, workers: int) -> DataLoader[Batch]:
    """One pass over the whole rest of the run: no pause and no new workers between epochs."""
    return DataLoader(
        dataset,
        batch_sampler=schedule.batches(start, stop),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
