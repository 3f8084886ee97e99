"""Shards on disk: the same rows as `datasets` reads, and a name for whatever is damaged."""

import io
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from spd_weights.errors import SpdError
from tests.train.data.helpers import CLASSES, COUNT, PHOTOS, write_parquet, write_tars
from tests.train.helpers import small_config
from train.data.loader import Crops
from train.data.shards import Layout, Shards
from train.data.sources import keep_layout, open_images


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_rows_are_those_that_datasets_reads(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write(tmp_path / "shards")
    ours = open_images(str(folder), labelled=True)
    kind = "parquet" if write is write_parquet else "webdataset"
    files = sorted(str(path) for path in folder.iterdir())
    theirs = datasets.load_dataset(kind, data_files=files, split="train")
    image, label = ("image", "label") if kind == "parquet" else ("jpg", "cls")
    theirs = theirs.cast_column(image, datasets.Image(decode=False))
    assert isinstance(ours, Shards)
    assert len(ours) == len(theirs) == COUNT
    rows = ours[list(range(COUNT))]
    assert [item["bytes"] for item in rows["image"]] == [item["bytes"] for item in theirs[image]]
    assert rows["label"] == list(theirs[label])
    assert ours.features["label"].names == (list(CLASSES) if kind == "parquet" else ["0", "1", "2"])
    assert ours[17]["image"] == rows["image"][17]


def test_nothing_is_copied_and_memory_holds_what_the_last_batch_needed(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = open_images(str(parquet))
    for index in range(COUNT):
        assert table[index]["image"]["bytes"] == PHOTOS[index]
        assert len(table.open) <= 2
    table[[0, 7, 12, 40]]
    assert len(table.open) == 5  # one group is from before
    table[20]
    assert len(table.open) == 5
    table[[0, 50]]
    assert len(table.open) == 3
    assert not (tmp_path / "cache").exists()


def test_strands_keep_memory_within_its_bounds():
    layout = Layout("parquet", ["a"], [1], [(0, 0, 100)] * 9, 11e6, "image", None, [], None)
    table = Shards(layout)
    assert table.strands(256) == 128  # 128 × 11 MB < 256 × 8 MB
    layout.group_bytes = 1e12
    assert table.strands(256) == 1
    layout.group_bytes = 0.0
    assert table.strands(250) == 250


def test_a_bad_image_is_named_by_shard_and_row(tmp_path: Path):
    photos = [*PHOTOS[:20], b"not an image", *PHOTOS[21:]]
    folder = write_parquet(tmp_path / "shards", photos=photos)
    batch = Crops(open_images(str(folder)), small_config(folder, tmp_path)).__getitems__([(0, 20), (0, 3)])
    assert list(batch.bad) == [20]
    assert f"{folder}/train-00001-of-00003.parquet, row 2 of row group 0 (20.jpg) (index 20)" in batch.bad[20]


def test_a_damaged_row_group_costs_its_rows_and_no_others(tmp_path: Path):
    folder = write_parquet(tmp_path / "shards")
    path = folder / "train-00001-of-00003.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 60] = bytes(60)
    path.write_bytes(bytes(content))
    table = open_images(str(folder))
    config = small_config(folder, tmp_path)
    batch = Crops(table, config).__getitems__([(0, 18), (0, 22), (0, 24), (0, 30)])
    assert set(batch.bad) == {24, 25, 26, 27}  # 24 was asked for, and so were its neighbours in its place
    assert all("row group 1" in reason for reason in batch.bad.values())


def test_shards_that_changed_since_the_run_began_are_noticed(parquet: Path, tmp_path: Path):
    kept = tmp_path / "shards.json"
    keep_layout(open_images(str(parquet)), str(parquet), False, "train", kept)
    assert len(open_images(str(parquet), kept=kept)) == COUNT
    write_parquet(parquet, rows=3)
    with pytest.raises(SpdError, match="has changed since the run began"):
        open_images(str(parquet), kept=kept)


def test_a_cut_tar_and_a_missing_label_are_named(tmp_path: Path):
    folder = write_tars(tmp_path / "tars")
    shard = folder / "train-1.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(SpdError, match=r"train-1\.tar: the shard is damaged"):
        open_images(str(folder))
    with tarfile.open(shard, "w") as tar:
        member = tarfile.TarInfo("x.jpg")
        member.size = len(PHOTOS[0])
        tar.addfile(member, io.BytesIO(PHOTOS[0]))
    with pytest.raises(SpdError, match=r"x\.jpg has no \.cls file"):
        open_images(str(folder), labelled=True)
