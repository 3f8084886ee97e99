"""Image sources: what is found in a folder, and what bad input is told."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from spd_weights.errors import SpdError
from tests.train.data.helpers import write_parquet
from tests.train.helpers import ROOT, run_train, write_photos
from train.data.sources import Table, fingerprint, from_layout, keep_layout, open_images


def images_of(table: Table) -> list[dict[str, Any]]:
    return table[list(range(len(table)))]["image"]


def test_a_folder_is_searched_through_in_a_fixed_order(tmp_path: Path):
    write_photos(tmp_path / "b", 3)
    write_photos(tmp_path / "a" / "deep", 2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    paths = [Path(item["path"]).relative_to(tmp_path).as_posix() for item in images_of(open_images(str(tmp_path)))]
    assert paths == ["a/deep/000.png", "a/deep/001.jpg", "b/000.png", "b/001.jpg", "b/002.jpg"]


@pytest.mark.parametrize("with_feature", [True, False])
def test_parquet_shards_hold_the_same_bytes(tmp_path: Path, with_feature: bool):
    files = sorted(write_photos(tmp_path / "photos", 6).iterdir())
    rows = {"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files], "label": list(range(6))}
    table = datasets.Dataset.from_dict(rows)
    if with_feature:
        table = table.cast_column("image", datasets.Image())
    (tmp_path / "shards").mkdir()
    table.to_parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    table.select([0]).to_parquet(tmp_path / "shards" / "val-00000-of-00001.parquet")
    read = open_images(str(tmp_path / "shards"))
    assert [item["bytes"] for item in read[list(range(6))]["image"]] == [f.read_bytes() for f in files]


@pytest.mark.parametrize("make", ["missing", "empty", "text only"])
def test_nothing_to_read_is_said(tmp_path: Path, make: str):
    folder = tmp_path / "photos"
    if make != "missing":
        folder.mkdir()
    if make == "text only":
        (folder / "readme.md").write_text("hello")
    with pytest.raises(SpdError, match="photos: no "):
        open_images(str(folder))


def write_classes(folder: Path) -> Path:
    for name in ("newt", "cat", "dog"):
        write_photos(folder / name, 4)
    return folder


def test_labels_are_the_names_of_subfolders(tmp_path: Path):
    table = open_images(str(write_classes(tmp_path / "photos")), labelled=True)
    assert table.features["label"].names == ["cat", "dog", "newt"]
    assert table[[0, 4, 11]]["label"] == [0, 1, 2]
    assert table[5]["label"] == 1
    write_photos(tmp_path / "photos", 1)
    with pytest.raises(SpdError, match=r"000\.png is not in a class folder"):
        open_images(str(tmp_path / "photos"), labelled=True)


def test_a_link_to_a_folder_is_followed_but_never_in_circles(tmp_path: Path):
    photos = write_classes(tmp_path / "photos")
    (photos / "cat" / "again").symlink_to(photos)
    shutil.move(photos / "dog", tmp_path / "elsewhere")
    (photos / "dog").symlink_to(tmp_path / "elsewhere")
    assert len(open_images(str(photos))) == 12


def test_a_kept_listing_holds_until_a_folder_changes(tmp_path: Path):
    photos, kept = write_classes(tmp_path / "photos"), tmp_path / "kept.json"
    table = open_images(str(photos), labelled=True)
    keep_layout(table, str(photos), True, "train", kept)
    known = json.loads(kept.read_text())
    known["layout"]["files"].remove("cat/001.jpg")  # shows whether the folder was listed again
    kept.write_text(json.dumps(known))
    assert len(open_images(str(photos), True, "train", kept)) == 11
    assert len(open_images(str(photos), False, "train", kept)) == 12  # another question
    write_photos(photos / "cat", 5)
    assert len(open_images(str(photos), True, "train", kept)) == 13


_WORKER = """
import os, sys
from pathlib import Path
listed = []

def count(event, arguments):
    if event in ("os.scandir", "os.listdir") and str(arguments[0]).startswith(sys.argv[1]):
        listed.append(arguments[0])

sys.addaudithook(count)
import torch
import torch.distributed
from train.data.sources import fingerprint, open_shared
torch.distributed.init_process_group("gloo")
for split, source in (("train", sys.argv[1]), ("val", sys.argv[1] + "/none")):
    try:
        table = open_shared(source, True, split, Path(sys.argv[2]), torch.device("cpu"))
        row = table[7]
        said = f'{len(listed)} {fingerprint(table)["sha256"]} {row["image"]["path"]} {row["label"]}'
    except Exception as error:
        said = f"{type(error).__name__} {error}"
    os.write(1, f'{os.environ["RANK"]} {said}\\n'.encode())  # a whole line, which the other's cannot interrupt
"""


def test_only_the_first_of_two_processes_lists_a_folder(tmp_path: Path):
    photos, worker = write_classes(tmp_path / "photos"), tmp_path / "worker.py"
    worker.write_text(_WORKER)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(worker))
    done = run_train(str(photos), str(tmp_path / "kept.json"), launcher=launcher, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    lines = sorted(line.split(maxsplit=2) for line in done.stdout.splitlines())
    assert [line[:2] for line in lines] == [["0", "4"], ["0", "SpdError"], ["1", "0"], ["1", "SpdError"]]
    assert lines[0][2] == lines[2][2]  # the same images, wherever they were listed
    assert "photos/dog/003.jpg 1" in lines[0][2]
    assert "no such folder" in lines[1][2]
    assert lines[1][2] == lines[3][2]


def test_a_fingerprint_follows_the_images_and_not_their_place(tmp_path: Path):
    table = open_images(str(write_classes(tmp_path / "photos")))
    shutil.copytree(tmp_path / "photos", tmp_path / "scratch" / "imagenet")
    moved = open_images(str(tmp_path / "scratch" / "imagenet"))
    assert moved[0]["image"]["path"].startswith(str(tmp_path / "scratch"))
    assert fingerprint(moved) == fingerprint(table)
    assert fingerprint(from_layout(json.loads(json.dumps(dataclasses.asdict(table.layout))))) == fingerprint(table)
    os.rename(tmp_path / "photos/cat/001.jpg", tmp_path / "photos/cat/001b.jpg")
    renamed = fingerprint(open_images(str(tmp_path / "photos")))
    assert renamed["images"] == fingerprint(table)["images"]
    assert renamed != fingerprint(table)


def test_a_fingerprint_of_shards_follows_them_too(tmp_path: Path):
    table = open_images(str(write_parquet(tmp_path / "shards")))
    shutil.move(tmp_path / "shards", tmp_path / "moved")
    assert fingerprint(open_images(str(tmp_path / "moved"))) == fingerprint(table)
    assert fingerprint(open_images(str(write_parquet(tmp_path / "other", rows=4)))) != fingerprint(table)
