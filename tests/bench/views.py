"""Views per second and core: our pipeline against lightly's SimSiam transform, on the same photographs.

    python -m tests.bench.views --data photos/ --size 64        # needs: pip install lightly

Both pipelines decode every image and make its two strong views on one thread, by turns in one process. With
--spd above 0, ours also makes the SPD views; every view counts. Decoding and cropping are timed separately as
well, because they stay on the CPU when a GPU trains.
"""

import argparse
import io
import resource
import statistics
import time
from pathlib import Path

import torch
from PIL import Image

from train.config import DataConfig, SpdConfig
from train.data.loader import Crops
from train.data.sources import open_images
from train.recipes import SimSiam
from train.setup import keep_freed_memory
from train.views.views import ViewMaker


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of photographs or shards")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spd", type=float, default=0.0)
    args = parser.parse_args()
    try:
        from lightly.transforms import SimSiamTransform
    except ImportError:
        raise SystemExit("lightly is not installed: pip install lightly") from None

    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    config = SimSiam(
        data=DataConfig(train=args.data, image_size=args.size), spd=SpdConfig(weight=args.spd), out=Path("unused")
    )
    images = open_images(args.data)
    crops, make_views = Crops(images, config), ViewMaker(config, (0.5,) * 3, (0.2,) * 3, torch.device("cpu"))
    theirs = SimSiamTransform(input_size=args.size)

    def ours(first: int) -> int:
        views = make_views(crops.__getitems__([(0, first + i) for i in range(args.batch)]))
        return sum(len(view) for view in views.values())

    def load(first: int) -> int:
        return crops.__getitems__([(0, first + i) for i in range(args.batch)]).crops.flatten(0, 1).shape[0]

    def lightly(first: int) -> int:
        batch = images[list(range(first, first + args.batch))]["image"]
        return sum(len(theirs(_decode(item))) for item in batch)

    def rate(make: object, first: int) -> float:
        start = time.process_time()
        return make(first) / (time.process_time() - start)

    ours(0), load(0), lightly(0)
    whole, loading = [], []
    for i in range(args.rounds):
        first = i * args.batch
        images[list(range(first, first + args.batch))]  # reads a shard's group before anything is timed
        a, b, c = rate(ours, first), rate(load, first), rate(lightly, first)
        whole.append(a / c)
        loading.append(b / c)
        print(f"ours {a:.0f} views/s, decoding and cropping {b:.0f} crops/s, lightly {c:.0f} views/s", flush=True)
    print(f"{args.size} px, CPU time of one thread, medians: ours / lightly {statistics.median(whole):.2f}; ", end="")
    print(f"decoding and cropping / lightly {statistics.median(loading):.2f}")
    batch = crops.__getitems__([(0, i) for i in range(args.batch)]).crops.nbytes / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"a worker holds up to 4 batches of {batch:.1f} MiB; peak memory of this process {peak:.0f} MiB")


def _decode(item: dict) -> Image.Image:
    source = io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]
    return Image.open(source).convert("RGB")


if __name__ == "__main__":
    main()
