"""Batches of crops: which step sees which image, and the workers that decode it."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError

from ..config import Config
from ..recipes import Adapt, Supervised
from ..views.randomness import permutation, uniforms
from .decode import Box, CropDraws, decode, random_resized_crop
from .shards import Shards
from .sources import Table


@dataclass
class Batch:
    """The crops that a process trains on in one step."""

    pieces: list[Tensor]
    """uint8 crops (b, V, 3, S, S), one piece per worker that loaded a part of the B images. There are V random crops
    per image, each mirrored with probability 1/2."""
    labels: Tensor | None
    """int64, (B,), if the table has labels."""
    indices: np.ndarray
    """int64, (B,): index of each image in the table."""
    epoch: int
    bad: dict[int, str]
    """Images that could not be read: index to file and reason. The next readable image takes the place of each.
    With more of them than the run allows, the remaining crops stay unfilled and the run has to stop."""

    @property
    def crops(self) -> Tensor:
        """All crops, (B, V, 3, S, S)."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)

    def crops_on(self, device: torch.device) -> Tensor:
        """All crops on a device. They are joined there: joining them here would copy them out of pinned memory."""
        return replace(self, pieces=[piece.to(device, non_blocking=True) for piece in self.pieces]).crops

    def split(self, parts: int) -> list["Batch"]:
        """Split into parts, in order; equally large ones if `parts` divides the batch. Crops are not copied."""
        labels = [None] * parts if self.labels is None else self.labels.tensor_split(parts)
        batches, start = [], 0
        for some, indices in zip(labels, np.array_split(self.indices, parts), strict=True):
            stop = start + len(indices)
            batches.append(Batch(_rows(self.pieces, start, stop), some, indices, self.epoch, {}))
            start = stop
        return batches

    @classmethod
    def join(cls, parts: list["Batch"]) -> "Batch":
        """Put the parts of one batch together. Crops are not copied."""
        labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
        bad = {index: reason for part in parts for index, reason in part.bad.items()}
        indices = np.concatenate([part.indices for part in parts])
        return cls([piece for part in parts for piece in part.pieces], labels, indices, parts[0].epoch, bad)

    def pin_memory(self) -> "Batch":
        """Pin the memory, so that copying to a GPU overlaps with its work; the data loader calls this."""
        self.pieces = [piece.pin_memory() for piece in self.pieces]
        self.labels = None if self.labels is None else self.labels.pin_memory()
        return self


def _rows(pieces: list[Tensor], start: int, stop: int) -> list[Tensor]:
    """Views of the rows from `start` to `stop - 1` of several tensors that follow each other."""
    ends = list(itertools.accumulate(map(len, pieces)))
    cut = [
        piece[max(0, start - end + len(piece)) : max(0, stop - end + len(piece))]
        for piece, end in zip(pieces, ends, strict=True)
    ]
    return [rows for rows in cut if len(rows)]


class Crops(Dataset[Batch]):
    """Random crops of a table's images; keys are (epoch, index), so there is no state."""

    def __init__(self, table: Table, config: Config) -> None:
        """Wrap a table from `open_images`; methods that compare views get two crops per image, others one."""
        self.table = table
        self.crops_per_image = 1 if isinstance(config, (Supervised, Adapt)) else 2
        self.size, self.area, self.seed = config.data.image_size, config.augment.crop_area, config.seed
        self.allowed_bad = int(config.data.max_bad_fraction * len(table))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Decode each image of a batch once and cut its crops.

        Args:
            keys: (epoch, index), all with the same epoch.
        """
        epoch, indices = keys[0][0], np.array([index for _, index in keys])
        streams = [f"crop {crop}" for crop in range(self.crops_per_image)]
        numbers = np.stack([uniforms(self.seed, epoch, indices, stream, 23) for stream in streams], 1)
        crops = torch.empty(len(keys), self.crops_per_image, 3, self.size, self.size, dtype=torch.uint8)
        bad: dict[int, str] = {}
        rows = self.table[indices.tolist()]
        labels = list(rows["label"]) if "label" in rows else None
        for row, item in enumerate(rows["image"]):
            where = int(indices[row])
            while len(bad) <= self.allowed_bad:
                try:
                    decode(item, partial(self._boxes, numbers[row]), crops[row])
                    break
                except Exception as error:  # a bad file can make a decoder raise anything
                    # Pillow names the buffer that it read from, which says nothing.
                    reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
                    bad[where] = f"{item['path'] or 'stored image'} (index {where}): {reason}"
                where = (where + 1) % len(self.table)  # the same replacement in every worker
                item = self.table[where]["image"]
                if labels is not None:
                    labels[row] = self.table[where]["label"]
        mirrored = CropDraws.from_uniforms(numbers).mirrored < 0.5
        for crop in itertools.compress(crops.flatten(0, 1), mirrored.flat):
            crop.copy_(crop.flip(-1))
        return Batch([crops], None if labels is None else torch.tensor(labels), indices, epoch, bad)

    def _boxes(self, numbers: np.ndarray, width: int, height: int) -> list[Box]:
        return [random_resized_crop(CropDraws.from_uniforms(u), width, height, self.area) for u in numbers]


class Schedule:
    """Which images each step sees, as a function of the seed and the step; a resumed run just starts later.

    An epoch's order is cut into strands of equal length, and each batch takes the next images of every strand.
    A process always has the same places in the batch, and so reads only its own part of the shards.
    """

    def __init__(
        self,
        images: int | np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        parts: int = 1,
        strands: int = 1,
    ) -> None:
        """Lay out the epochs.

        Args:
            images: number of images, or for shards the number in each group. The images that do not fill
                the last batch of an epoch are left out; each epoch leaves out others.
            batch_size: global.
            seed: decides the order of every epoch.
            rank: this process, in [0, processes).
            processes: number of processes that share a batch.
            parts: number of parts that a process computes its share in (`--optim.accumulate`).
            strands: a divisor of the batch size.

        Raises:
            SpdError: the batch is larger than the dataset, or is not divisible by processes × parts.
        """
        self.groups = images if isinstance(images, np.ndarray) else None
        self.images = int(np.sum(images))
        if batch_size > self.images:
            raise SpdError(
                f"--optim.batch-size {batch_size} is larger than the dataset, which has {self.images} images"
            )
        if batch_size % (processes * parts):
            raise SpdError(
                f"--optim.batch-size {batch_size} is not divisible by {processes} processes × "
                f"--optim.accumulate {parts}"
            )
        self.batch_size, self.seed, self.images_per_strand = batch_size, seed, batch_size // strands
        self.rank, self.images_per_process = rank, batch_size // processes
        self.steps_per_epoch = self.images // batch_size

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, index) keys of this process's share of each step from `start` to `stop - 1`."""
        order: Callable[[np.ndarray], np.ndarray] | None = None
        ordered = -1
        in_batch = self.rank * self.images_per_process + np.arange(self.images_per_process)
        strand, in_strand = np.divmod(in_batch, self.images_per_strand)
        first = strand * self.steps_per_epoch * self.images_per_strand + in_strand  # places at the epoch's first step
        for step in range(start, stop):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if order is None or epoch != ordered:
                order, ordered = self._order(epoch), epoch
            places = first + step_in_epoch * self.images_per_strand
            yield [(epoch, int(index)) for index in order(places)]

    def _order(self, epoch: int) -> Callable[[np.ndarray], np.ndarray]:
        """A function from places in the epoch's order to image indices."""
        if self.groups is None:
            return permutation(self.seed, epoch, self.images).__getitem__
        return GroupOrder(self.groups, self.seed, epoch)


def make_schedule(
    table: Table, batch_size: int, seed: int, rank: int = 0, processes: int = 1, parts: int = 1
) -> Schedule:
    """The schedule of a table's images; for shards, by groups and strands. Arguments and errors as of `Schedule`."""
    if isinstance(table, Shards):
        return Schedule(table.counts, batch_size, seed, rank, processes, parts, table.strands(batch_size))
    return Schedule(len(table), batch_size, seed, rank, processes, parts)


class GroupOrder:
    """An epoch's order of images in shards: the groups are shuffled, and so are the images within each."""

    def __init__(self, sizes: np.ndarray, seed: int, epoch: int) -> None:
        """Shuffle the groups; the images within a group are shuffled when they are first needed.

        Args:
            sizes: number of images in each group; images are numbered group by group.
            seed: the run's seed.
            epoch: 0, 1, …
        """
        self.seed, self.epoch, self.sizes = seed, epoch, sizes
        self.first = np.cumsum(sizes) - sizes
        self.groups = permutation(seed, epoch, len(sizes))
        self.ends = np.cumsum(sizes[self.groups])
        self.inside: dict[int, np.ndarray] = {}

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Indices of the images at the given places of the order: int64, same shape."""
        turns = np.searchsorted(self.ends, places, side="right")  # which of the shuffled groups holds each place
        groups = self.groups[turns]
        in_group = places - (self.ends[turns] - self.sizes[groups])
        # Orders of groups that this step does not need are forgotten, so memory does not grow.
        self.inside = {group: self._order_inside(group) for group in map(int, np.unique(groups))}
        indices = [self.first[group] + self.inside[int(group)][i] for group, i in zip(groups, in_group, strict=True)]
        return np.array(indices, np.int64)

    def _order_inside(self, group: int) -> np.ndarray:
        if (order := self.inside.get(group)) is not None:
            return order
        return np.random.default_rng([self.seed, self.epoch, group + 1]).permutation(self.sizes[group])


def make_loader(dataset: Crops, schedule: Schedule, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop - 1`, with the same workers throughout.

    With image files, each worker loads whole batches. With shards, each worker loads the same part of every
    batch, so that no two workers read the same group.

    Raises:
        SpdError: a shard cannot be read.
    """
    sharded = isinstance(dataset.table, Shards)
    workers = min(workers, schedule.images_per_process) if sharded else workers
    parts = max(1, workers) if sharded else 1
    loader = DataLoader(
        dataset,
        batch_sampler=_split_keys(schedule.batches(start, stop), parts),
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_process_group,
    )
    loaded = iter(loader)
    try:
        while some := list(itertools.islice(loaded, parts)):
            yield some[0] if len(some) == 1 else Batch.join(some)
    except SpdError as error:  # a worker's error arrives with its traceback in front
        raise SpdError(str(error).rpartition("SpdError: ")[2].strip()) from None


def _split_keys(batches: Iterator[list[tuple[int, int]]], parts: int) -> Iterator[list[tuple[int, int]]]:
    for keys in batches:
        ends = [len(keys) * part // parts for part in range(parts + 1)]
        yield from (keys[a:b] for a, b in itertools.pairwise(ends))


def _leave_process_group(worker: int) -> None:
    """Ctrl-C and schedulers signal the whole process group, but workers must live until the step is done."""
    os.setpgrp()


def _identity(batch: Batch) -> Batch:
    return batch
