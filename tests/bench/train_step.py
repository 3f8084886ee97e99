"""What data, decoding and augmentation add to a training step.

    python -m tests.bench.train_step --data photos/ --arch resnet18 --size 64

Times blocks of steps in turn, in one process: (a) the forward and backward passes and the optimiser on
tensors that are ready, (b) the same with images decoded by workers and all views made. Prints the
ratio b / a of each round and its median. The workers run throughout; their queue is full before and
after a block (b), so neither block does the other's decoding.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from torch import Tensor

from train.config import DataConfig, ModelConfig, OptimConfig, SimSiam, SpdConfig
from train.data import Crops, Schedule, make_loader
from train.methods import build_method
from train.optim import make_optimizer, set_learning_rate
from train.sources import open_images
from train.views import ViewMaker, memory_layout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of photographs or shards")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="steps in a block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--spd", type=float, default=0.1, help="SPD weight; 0 times the bare method")
    args = parser.parse_args()

    config = SimSiam(
        data=DataConfig(train=args.data, image_size=args.size, workers=args.workers),
        model=ModelConfig(arch=args.arch),
        optim=OptimConfig(batch_size=args.batch),
        spd=SpdConfig(weight=args.spd),
        out=Path(tempfile.gettempdir()),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = memory_layout(device)
    torch.manual_seed(0)
    backbone = timm.create_model(args.arch, num_classes=0)
    expected = timm.data.resolve_model_data_config(backbone)
    method = build_method(config, backbone).to(device, memory_format=layout).train()
    optimizer = make_optimizer(method, config.optim, fused=device.type == "cuda")
    images = open_images(args.data)
    schedule = Schedule(len(images), args.batch, 0)
    crops = Crops(images, config)
    make_views = ViewMaker(config, expected["mean"], expected["std"], device)
    shape = (args.batch, 3, args.size, args.size)
    names = ("anchor", "second", *(("positive", "negative") if args.spd > 0 else ()))
    ready = {name: torch.randn(shape, device=device).contiguous(memory_format=layout) for name in names}

    def train(batches: Iterable[dict[str, Tensor]]) -> float:
        start = time.perf_counter()
        for step, views in enumerate(batches):
            set_learning_rate(optimizer, config.optim, step, schedule.steps_per_epoch)
            out = method(views)
            loss = out["loss_base"] + (args.spd * out["loss_spd"] if args.spd > 0 else 0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    total = (args.rounds + 1) * args.steps
    loader = iter(make_loader(crops, schedule, 0, total, args.workers))
    train(ready for _ in range(2))
    train(make_views(batch) for batch in itertools.islice(loader, args.steps))
    ratios = []
    for _ in range(args.rounds):
        bare = train(ready for _ in range(args.steps))
        whole = train(make_views(batch) for batch in itertools.islice(loader, args.steps))
        ratios.append(whole / bare)
        per_second = args.steps * args.batch / whole
        print(f"bare {bare:.2f} s, with data {whole:.2f} s ({per_second:.1f} images/s), {ratios[-1]:.3f}")
    print(f"step with data / bare step: median {statistics.median(ratios):.3f}, {args.arch} {args.size} px, {device}")


if __name__ == "__main__":
    main()
