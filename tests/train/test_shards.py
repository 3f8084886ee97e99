"""Images in shards: the same rows, each once an epoch, whoever reads them, from disk and from a Hub that fails."""

import collections
import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi, HfFileSystem
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import train.data.shards
from spd_weights.errors import SpdError
from tests.hub_protocol import Handler
from tests.hub_server import HubServer
from tests.train.helpers import small_config
from train.config import DataConfig
from train.data.loader import Crops, GroupOrder, Schedule, make_loader
from train.data.shards import Layout, Shards
from train.data.sources import keep_layout, open_images

COUNT, CLASSES = 53, ("dog", "cat", "newt")


def photo(index: int) -> bytes:
    buffer = io.BytesIO()
    colours = np.random.default_rng(index).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((48, 41), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = [photo(i) for i in range(COUNT)]


def write_parquet(folder: Path, shards: int = 3, rows: int = 5, photos: list[bytes] = PHOTOS) -> Path:
    """Shards of row groups of 5, so that neither shards nor groups divide by anything."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [{"bytes": content, "path": f"{i}.jpg"} for i, content in enumerate(photos)],
        "label": [i % 3 for i in range(len(photos))],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    table = datasets.Dataset.from_dict(columns, features=features)
    for i in range(shards):
        part = table.shard(shards, i).with_format("arrow")[:]
        part = part.replace_schema_metadata(features.arrow_schema.metadata)
        pq.write_table(part, folder / f"train-{i:05d}-of-{shards:05d}.parquet", row_group_size=rows)
    return folder


def write_tars(folder: Path, shards: int = 3) -> Path:
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for i in range(shard, COUNT, shards):
                for name, content in ((f"{i:04d}.jpg", PHOTOS[i]), (f"{i:04d}.cls", str(i % 3).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "shards")


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
    assert f"{folder}/train-00001-of-00003.parquet, row 2 of row group 0 (20.jpg) (number 20)" in batch.bad[20]


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
    with pytest.raises(SpdError, match="not what it was when the run began"):
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


def put_on_the_hub(hub: HubServer, folder: Path) -> str:
    """As a user does, with the real client."""
    api = HfApi()
    api.create_repo("tester/pics", repo_type="dataset")
    api.upload_folder(repo_id="tester/pics", repo_type="dataset", folder_path=folder, path_in_repo="data")
    hub.requests.clear()
    return "hf:tester/pics"


@pytest.fixture
def remote(hub: HubServer, parquet: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    HfFileSystem.clear_instance_cache()  # of the repository of the test before
    monkeypatch.setattr(train.data.shards, "_WAITS", (0.01, 0.01, 0.01, 0.01))
    return put_on_the_hub(hub, parquet)


def test_a_repository_is_read_by_ranges_at_one_commit(remote: str, hub: HubServer, tmp_path: Path):
    table = open_images(remote, labelled=True)
    assert len(table) == COUNT
    assert table.features["label"].names == list(CLASSES)
    assert [item["bytes"] for item in table[[30, 31, 32]]["image"]] == PHOTOS[30:33]
    footer_and_group = len(hub.requests)
    assert [item["bytes"] for item in table[[33, 35]]["image"]] == [PHOTOS[33], PHOTOS[35]]
    assert len(hub.requests) - footer_and_group == 1  # one range holds a row group
    keep_layout(table, remote, True, "train", tmp_path / "kept.json")
    hub.requests.clear()
    again = open_images(remote, labelled=True, kept=tmp_path / "kept.json")
    assert (again.revision, hub.requests) == (table.revision, [])
    assert len(table.revision) == 40


def failing(kind: str, times: int):
    """A fault for the first `times` requests for ranges."""
    left = [times]

    def fault(request: Handler) -> bool:
        if "Range" not in request.headers or left[0] == 0:
            return False
        left[0] -= 1
        if kind == "503":
            request.send(b"busy", 503)
        elif kind == "dropped":
            request.close_connection = True
            request.connection.close()
        elif kind == "truncated":  # announces more than comes
            request.send_response(206)
            request.send_header("Content-Length", "100000")
            request.end_headers()
            request.wfile.write(b"x" * 100)
            request.close_connection = True
        else:  # shorter, and consistent in itself, as a proxy may make it
            request.send(b"x" * 100, 206)
        return True

    return fault


@pytest.mark.parametrize("kind", ["503", "dropped", "truncated", "short"])
def test_a_hub_that_fails_for_a_while_changes_nothing(kind: str, remote: str, hub: HubServer):
    table = open_images(remote)
    hub.fault = failing(kind, times=1)
    assert [item["bytes"] for item in table[[7, 8]]["image"]] == PHOTOS[7:9]


@pytest.mark.parametrize("status", [404, 400])
def test_a_hub_that_stays_away_ends_the_run_with_a_sentence(
    status: int, remote: str, hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    table = open_images(remote)
    hub.fault = lambda request: request.send(b"gone", status) or True
    config = small_config(tmp_path, tmp_path, data=DataConfig(train=remote, image_size=32))
    schedule = Schedule(table.counts, 4, 0, strands=4)
    for workers in (0, 1):
        with pytest.raises(
            SpdError, match=r"^hf://datasets/tester/pics@.*parquet could not be read: .*newest checkpoint"
        ):
            next(make_loader(Crops(table, config), schedule, 0, 2, workers))
        tries = capfd.readouterr().err.count("; again in 0.01 s")
        assert tries == (0 if status == 404 else 4)  # what is gone is not waited for
