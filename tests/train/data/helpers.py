"""The same small photographs as parquet shards and as webdataset tars."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

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
