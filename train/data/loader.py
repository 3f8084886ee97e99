"""Crops out of a table of encoded images: which step sees which, and each decoded once a visit."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_weights.errors import SpdError

from ..config import Config
from ..recipes import Adapt, Supervised
from ..views.randomness import permutation, uniforms
from .decode import Box, decode, random_resized_crop
from .shards import Shards
from .sources import Table


@dataclass
class Batch:
    """What a process trains on in a step."""

    crops: Tensor
    """uint8, (B, V, 3, S, S): V random crops of each image, half of them mirrored."""
    labels: Tensor | None
    """int64, (B,), where the table has labels."""
    indices: np.ndarray
    """int64, (B,): the images' numbers in the table."""
    epoch: int
    bad: dict[int, str]
    """Images that could not be read, number to file and reason: a neighbour took the place of each. Once
    there are more than the run allows, crops are left unfilled: the run has to stop."""

    def split(self, parts: int) -> list["Batch"]:
        """Cut into parts, in order: equal ones, where the batch divides by their number."""
        if parts == 1:
            return [self]
        labels = [None] * parts if self.labels is None else self.labels.tensor_split(parts)
        pieces = zip(self.crops.tensor_split(parts), labels, np.array_split(self.indices, parts), strict=True)
        return [Batch(crops, some, indices, self.epoch, {}) for crops, some, indices in pieces]

    @classmethod
    def join(cls, parts: list["Batch"]) -> "Batch":
        """Put parts of one batch together."""
        labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
        bad = {index: reason for part in parts for index, reason in part.bad.items()}
        indices = np.concatenate([part.indices for part in parts])
        whole = cls(torch.cat([part.crops for part in parts]), labels, indices, parts[0].epoch, bad)
        return whole.pin_memory() if parts[0].crops.is_pinned() else whole

    def pin_memory(self) -> "Batch":
        """Let the copy to a GPU overlap with work there (called by the data loader)."""
        self.crops = self.crops.pin_memory()
        self.labels = None if self.labels is None else self.labels.pin_memory()
        return self


class Crops(Dataset[Batch]):
    """Random crops of a table's images; indexed by (epoch, index) so that it carries no state."""

    def __init__(self, table: Table, config: Config) -> None:
        """Wrap a table from `open_images`: two crops an image for methods that compare views, else one."""
        self.table = table
        self.views = 1 if isinstance(config, (Supervised, Adapt)) else 2
        self.size, self.area, self.seed = config.data.image_size, config.augment.crop_area, config.seed
        self.allowed_bad = int(config.data.max_bad_fraction * len(table))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Decode each image of a batch once and cut its crops.

        Args:
            keys: (epoch, index), all of one epoch.
        """
        epoch, indices = keys[0][0], np.array([index for _, index in keys])
        draws = np.stack([uniforms(self.seed, epoch, indices, f"crop {view}", 23) for view in range(self.views)], 1)
        crops = torch.empty(len(keys), self.views, 3, self.size, self.size, dtype=torch.uint8)
        bad: dict[int, str] = {}
        rows = self.table[indices.tolist()]
        labels = list(rows["label"]) if "label" in rows else None
        for row, item in enumerate(rows["image"]):
            where = int(indices[row])
            while len(bad) <= self.allowed_bad:
                try:
                    decode(item, partial(self._boxes, draws[row]), crops[row])
                    break
                except Exception as error:  # whatever a decoder throws, it means this file is bad
                    bad[where] = f"{item['path'] or 'stored image'} (number {where}): {error}"
                where = (where + 1) % len(self.table)  # the neighbour, whichever worker it is
                item = self.table[where]["image"]
                if labels is not None:
                    labels[row] = self.table[where]["label"]
        for crop in itertools.compress(crops.flatten(0, 1), (draws[:, :, 22] < 0.5).flat):
            crop.copy_(crop.flip(-1))
        return Batch(crops, None if labels is None else torch.tensor(labels), indices, epoch, bad)

    def _boxes(self, draws: np.ndarray, width: int, height: int) -> list[Box]:
        return [random_resized_crop(draw[:22], width, height, self.area) for draw in draws]


class Schedule:
    """Which images each step sees, as a function of the seed and the step: resuming is starting later.

    An epoch's order is cut into as many strands as `strands` says; a batch takes the next images of each.
    So a process, which has its place in the batch, reads its own part of the shards and no other.
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
            images: how many there are, or how many there are in each group of a shard; what does not fill
                a batch is left to another epoch's order.
            batch_size: global.
            seed: decides the order of every epoch.
            rank: this process, in [0, processes).
            processes: how many share a batch.
            parts: how many parts a process computes its share in.
            strands: a divisor of the batch size.

        Raises:
            SpdError: the batch is larger than the dataset, or does not divide by the processes and parts.
        """
        self.groups = images if isinstance(images, np.ndarray) else None
        self.images = int(np.sum(images))
        if batch_size > self.images:
            raise SpdError(f"--optim.batch-size {batch_size} is more than the {self.images} images there are")
        if batch_size % (processes * parts):
            raise SpdError(
                f"--optim.batch-size {batch_size} does not divide by {processes} processes × --optim.accumulate {parts}"
            )
        self.batch_size, self.seed, self.run_length = batch_size, seed, batch_size // strands
        self.rank, self.share = rank, batch_size // processes
        self.steps_per_epoch = self.images // batch_size

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """The (epoch, index) keys of this process's share of the steps start … stop - 1."""
        order: Callable[[np.ndarray], np.ndarray] | None = None
        ordered = -1
        strand, place = np.divmod(self.rank * self.share + np.arange(self.share), self.run_length)
        for step in range(start, stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if order is None or epoch != ordered:
                order, ordered = self._order(epoch), epoch
            places = strand * self.steps_per_epoch * self.run_length + position * self.run_length + place
            yield [(epoch, int(index)) for index in order(places)]

    def _order(self, epoch: int) -> Callable[[np.ndarray], np.ndarray]:
        """From places in the epoch's order to image numbers."""
        if self.groups is None:
            return permutation(self.seed, epoch, self.images).__getitem__
        return GroupOrder(self.groups, self.seed, epoch)


class GroupOrder:
    """An epoch's order of images in shards: the groups are shuffled, and so are the images of each."""

    def __init__(self, sizes: np.ndarray, seed: int, epoch: int) -> None:
        """Shuffle the groups; the images of each are shuffled when it is their turn.

        Args:
            sizes: images in each group, as they are numbered one group after the other.
            seed: the run's.
            epoch: 0, 1, …
        """
        self.seed, self.epoch, self.sizes = seed, epoch, sizes
        self.first = np.cumsum(sizes) - sizes
        self.groups = permutation(seed, epoch, len(sizes))
        self.ends = np.cumsum(sizes[self.groups])
        self.inside: dict[int, np.ndarray] = {}

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers of the images at some places of the order: int64, of the same shape."""
        turns = np.searchsorted(self.ends, places, side="right")
        needed = {int(self.groups[turn]) for turn in turns}
        self.inside = {group: self.inside.get(group, None) for group in needed}
        for group, order in self.inside.items():
            if order is None:
                rng = np.random.default_rng([self.seed, self.epoch, group + 1])
                self.inside[group] = rng.permutation(self.sizes[group])
        groups = self.groups[turns]
        rows = places - (self.ends[turns] - self.sizes[groups])
        return np.array(
            [self.first[group] + self.inside[int(group)][row] for group, row in zip(groups, rows, strict=True)],
            np.int64,
        )


def make_loader(dataset: Crops, schedule: Schedule, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """One pass over the whole rest of the run: no pause and no new workers between epochs.

    Each worker loads whole batches of image files. Of shards, each loads the same part of every batch,
    so that no two read the same group.
    """
    sharded = isinstance(dataset.table, Shards)
    workers = min(workers, schedule.share) if sharded else workers
    parts = max(1, workers) if sharded else 1
    loader = DataLoader(
        dataset,
        batch_sampler=_cut(schedule.batches(start, stop), parts),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_the_group,
    )
    loaded = iter(loader)
    try:
        while some := list(itertools.islice(loaded, parts)):
            yield some[0] if len(some) == 1 else Batch.join(some)
    except SpdError as error:  # from a worker it comes with a traceback before it
        raise SpdError(str(error).rpartition("SpdError: ")[2].strip()) from None


def _cut(batches: Iterator[list[tuple[int, int]]], parts: int) -> Iterator[list[tuple[int, int]]]:
    for keys in batches:
        ends = [len(keys) * part // parts for part in range(parts + 1)]
        yield from (keys[a:b] for a, b in itertools.pairwise(ends))


def _leave_the_group(worker: int) -> None:
    """Ctrl-C and schedulers signal the whole process group; a worker has to live until the step is done."""
    os.setpgrp()


def _as_it_is(batch: Batch) -> Batch:
    return batch
