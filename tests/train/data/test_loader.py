"""Which step sees which image, whoever loads it, and what happens to unreadable files."""

import collections
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.data.loader import Batch, Crops, GroupOrder, Schedule, make_loader, make_schedule
from train.data.sources import open_images


def test_bad_files_are_replaced_by_a_neighbour_and_named(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 8)
    (photos / "002.jpg").write_bytes((photos / "002.jpg").read_bytes()[:200])  # truncated
    (photos / "003.jpg").write_text("not an image")
    config = small_config(
        photos, tmp_path, data=dataclasses.replace(small_config(photos, tmp_path).data, max_bad_fraction=0.3)
    )
    dataset = Crops(open_images(str(photos)), config)
    batch = dataset.__getitems__([(0, 1), (0, 2), (0, 5)])
    assert set(batch.bad) == {2, 3}
    assert "002.jpg" in batch.bad[2]
    assert "003.jpg" in batch.bad[3]
    again = dataset.__getitems__([(0, 5), (0, 2)])
    assert torch.equal(again.crops[1], batch.crops[1])  # whatever the rest of the batch


@given(images=st.integers(1, 60), batch=st.integers(1, 20), processes=st.sampled_from([1, 2, 4]))
def test_every_epoch_sees_every_image_at_most_once_and_processes_share_each_batch(
    images: int, batch: int, processes: int
):
    if batch > images or batch % processes:
        with pytest.raises(SpdError):
            Schedule(images, batch, 0, 0, processes)
        return
    whole = Schedule(images, batch, 0)
    steps = 2 * whole.steps_per_epoch
    batches = list(whole.batches(0, steps))
    parts = [list(Schedule(images, batch, 0, rank, processes).batches(0, steps)) for rank in range(processes)]
    assert [[key for share in shares for key in share] for shares in zip(*parts, strict=True)] == batches
    for epoch in range(2):
        seen = Counter(index for keys in batches for e, index in keys if e == epoch)
        assert sum(seen.values()) == images // batch * batch
        assert max(seen.values()) == 1
    assert list(whole.batches(1, steps)) == batches[1:]  # resuming is starting later


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tmp_path: Path, workers: int):
    config = small_config(write_photos(tmp_path), tmp_path)
    table = open_images(str(tmp_path))

    def crops(workers: int) -> list[torch.Tensor]:
        schedule = Schedule(len(table), 8, 0)
        return [batch.crops for batch in make_loader(Crops(table, config), schedule, 0, 4, workers)]

    for here, there in zip(crops(0), crops(workers), strict=True):
        assert torch.equal(here, there)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    batch=st.sampled_from([1, 2, 4, 6, 12]),
    strands=st.sampled_from([1, 2, 3, 4, 6, 12]),
    processes=st.sampled_from([1, 2, 3]),
)
def test_an_epoch_sees_each_image_at_most_once_and_misses_only_what_fills_no_batch(
    sizes: list[int], batch: int, strands: int, processes: int
):
    """Shards that do not divide by anything, any number of processes: the trap of split_dataset_by_node and prepare."""
    counts = np.array(sizes)
    if batch % processes or batch % strands or counts.sum() < batch:
        return
    whole = Schedule(counts, batch, seed=3, strands=strands)
    steps = 2 * whole.steps_per_epoch
    batches = list(whole.batches(0, steps))
    for epoch in (0, 1):
        seen = [index for keys in batches for e, index in keys if e == epoch]
        assert len(seen) == len({*seen}) == counts.sum() // batch * batch
        assert {*seen} <= {*range(counts.sum())}
    shares = [Schedule(counts, batch, 3, rank, processes, strands=strands) for rank in range(processes)]
    parts = zip(*(share.batches(0, steps) for share in shares), strict=True)
    joined = [[key for share in step for key in share] for step in parts]
    assert joined == batches
    middle = steps // 2 + 1
    assert list(whole.batches(middle, steps)) == batches[middle:]  # resuming is starting later, with nothing to replay


def test_epochs_have_their_own_order_and_images_of_a_group_come_apart():
    counts = np.full(20, 10)
    orders = [GroupOrder(counts, 0, epoch)(np.arange(200)) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(200)) for order in orders)
    assert not np.array_equal(*orders)
    assert (np.diff(orders[0]) == 1).mean() < 0.2
    batch = next(Schedule(counts, 8, 0, strands=8).batches(0, 1))
    assert len({index // 10 for _, index in batch}) > 5  # a batch draws from many groups


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_and_workers_read_parts_of_their_own(processes: int):
    counts, batch = np.full(64, 10), 16
    reads = collections.Counter()
    for rank in range(processes):
        for keys in Schedule(counts, batch, 0, rank, processes, strands=16).batches(0, 640 // batch):
            half = len(keys) // 2
            for worker, part in enumerate((keys[:half], keys[half:])):  # as `make_loader` cuts it for two workers
                for _, index in part:
                    reads[index // 10, rank, worker] += 1
    assert len(reads) < 1.2 * 64  # nearly every group is read by one worker of one process


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_workers_changes_nothing(parquet: Path, tmp_path: Path, workers: int):
    config = small_config(parquet, tmp_path)
    table = open_images(str(parquet), labelled=True)

    def batches(workers: int, start: int = 0) -> list:
        schedule = Schedule(table.counts, 8, 0, strands=table.strands(8))
        return list(make_loader(Crops(table, config), schedule, start, 9, workers))

    expected = batches(0)
    found = batches(workers, start=4)
    for here, there in zip(expected[4:], found, strict=True):
        assert torch.equal(here.crops, there.crops)
        assert torch.equal(here.labels, there.labels)
        assert np.array_equal(here.indices, there.indices)


@pytest.mark.parametrize("sizes", [[12], [5, 4, 3], [1, 11]])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_joining_and_splitting_a_batch_copies_no_crops(sizes: list[int], parts: int):
    crops = torch.arange(12 * 2 * 3 * 4 * 4).view(12, 2, 3, 4, 4).byte()
    pieces, labels = [piece.clone() for piece in crops.split(sizes)], torch.arange(12).split(sizes)
    ends = np.cumsum(sizes)
    loaded = [
        Batch([piece], some, np.arange(end - len(piece), end), 3, {int(end): "bad"})
        for piece, some, end in zip(pieces, labels, ends, strict=True)
    ]
    batch = Batch.join(loaded)
    assert set(batch.bad) == set(ends.tolist())
    assert [piece.data_ptr() for piece in batch.pieces] == [piece.data_ptr() for piece in pieces]
    split = batch.split(parts)
    storages = {piece.untyped_storage().data_ptr() for piece in pieces}
    assert {piece.untyped_storage().data_ptr() for part in split for piece in part.pieces} == storages
    assert torch.equal(torch.cat([part.crops_on(torch.device("cpu")) for part in split]), crops)
    assert torch.equal(torch.cat([part.labels for part in split]), torch.arange(12))
    assert np.array_equal(np.concatenate([part.indices for part in split]), np.arange(12))
    assert max(len(part.indices) for part in split) - min(len(part.indices) for part in split) <= 1


@pytest.mark.gpu
def test_pinned_pieces_reach_the_gpu_without_another_copy(parquet: Path, tmp_path: Path):
    config = small_config(parquet, tmp_path)
    table = open_images(str(parquet))
    for batch in make_loader(Crops(table, config), make_schedule(table, 8, 0), 0, 2, 2):
        assert len(batch.pieces) == 2
        assert all(piece.is_pinned() for piece in batch.pieces)
        assert torch.equal(batch.crops_on(torch.device("cuda")).cpu(), batch.crops)
