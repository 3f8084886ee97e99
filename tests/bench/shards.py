"""Images/s per core from files, from shards and from images stored as pixels, and how much an epoch reads of shards.

    python -m tests.bench.shards

Synthetic photographs of ImageNet's usual size (500 × 375 px) are decoded and cropped to two views of 224 px: from a
folder, from parquet with row groups of 100, and from what `train.data.predecode` makes of the folder. Then the row
groups that four workers in each of two processes read are counted.
"""

import io
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from tests.train.helpers import small_config
from train.config import DataConfig
from train.data.loader import Crops, Schedule, make_schedule
from train.data.predecode import Predecode, store
from train.data.sources import open_images

IMAGES, BATCH = 800, 16


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG of smooth colours and noise, 500 × 375 px."""
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    image = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
    buffer = io.BytesIO()
    noisy = (image + rng.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(folder: Path) -> tuple[Path, Path]:
    """The same images as files and as shards."""
    files, shards = folder / "files", folder / "shards"
    files.mkdir()
    shards.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(IMAGES):
        jpeg = photograph(rng)
        (files / f"{i:04d}.jpg").write_bytes(jpeg)
        rows.append({"bytes": jpeg, "path": f"{i:04d}.jpg"})
    table = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    for shard in range(2):
        part = table.shard(2, shard).with_format("arrow")[:]
        pq.write_table(part, shards / f"train-{shard}.parquet", row_group_size=100)
    return files, shards


def images_per_second(source: Path) -> float:
    """Images per second of CPU time of this process, over an epoch after the first two batches."""
    config = small_config(source, source, data=DataConfig(train=str(source), image_size=224))
    table = open_images(str(source))
    schedule, crops, begun = make_schedule(table, BATCH, 0), Crops(table, config), 0.0
    for step, keys in enumerate(schedule.batches(0, schedule.steps_per_epoch)):
        if step == 2:
            begun = time.process_time()
        crops.__getitems__(keys)
    return (schedule.steps_per_epoch - 2) * BATCH / (time.process_time() - begun)


def groups_read(source: Path, processes: int = 2, workers: int = 4) -> float:
    """How often an epoch reads each row group, over all workers of all processes."""
    table, read = open_images(str(source)), set()
    for rank in range(processes):
        schedule = Schedule(table.counts, BATCH, 0, rank, processes, strands=table.strands(BATCH))
        for keys in schedule.batches(0, schedule.steps_per_epoch):
            for place, (_, index) in enumerate(keys):
                group = int(np.searchsorted(table.ends, index, side="right"))
                read.add((rank, place * workers // len(keys), group))
    return len(read) / len(table.counts)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files, shards = write(Path(folder))
        pixels = Path(folder) / "pixels"
        store(Predecode(str(files), pixels, per_tar=100))
        sources = {"files": files, "parquet": shards, "pixels": pixels}
        rates = {name: max(images_per_second(source) for _ in range(2)) for name, source in sources.items()}
        for name, rate in rates.items():
            size = sum(path.stat().st_size for path in sources[name].iterdir()) / IMAGES
            print(f"{name}: {rate:.0f} images/s per core ({rate / rates['files']:.2f}), {size / 1000:.0f} kB per image")
        print(f"8 workers read each of the {IMAGES // 100} row groups {groups_read(shards):.1f} times per epoch")


if __name__ == "__main__":
    main()
