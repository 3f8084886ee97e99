"""Image sources: what is found in a folder, and what bad input is told."""

from pathlib import Path

import datasets
import pytest

from spd_weights.errors import SpdError
from tests.train.helpers import write_photos
from train.data.sources import open_images


def test_a_folder_is_searched_through_in_a_fixed_order(tmp_path: Path):
    write_photos(tmp_path / "b", 3)
    write_photos(tmp_path / "a" / "deep", 2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    paths = [Path(item["path"]).relative_to(tmp_path).as_posix() for item in open_images(str(tmp_path))["image"]]
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
