"""How much time data, decoding, augmentation and SPD add to a training step.

    python -m tests.bench.train_step --data photos/ --arch resnet18 --size 64

Times blocks of SimSiam steps without and with SPD, by turns in one process: (a) forward and backward passes and the
optimiser on tensors in memory, (b) the same with images that workers decode and with all views made. Prints the
medians of b / a and of SPD step / base step, beside the ratio of images that pass through the encoder. The workers
run throughout, and their queues are full before and after each block (b), so no block pays for another's decoding.
With --precision bf16 it also compares the whole SPD step in bfloat16 with that in float32.

Also prints how many images one core decodes per second, and for one SPD step with its views the operator calls on the
device and, on a GPU, how often the CPU waited for it.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from torch import Tensor

from tests.train.calls import CallCounter
from train.config import DataConfig, ModelConfig, OptimConfig, SpdConfig
from train.data.loader import Crops, make_loader, make_schedule
from train.data.sources import open_images
from train.methods import build_method
from train.optim import make_optimizer, set_learning_rate
from train.plan import images_per_core_second
from train.recipes import SimSiam
from train.setup import keep_freed_memory
from train.views.views import ViewMaker, memory_layout


class Training:
    """SimSiam with an SPD weight, its data and its optimiser."""

    def __init__(self, args: argparse.Namespace, spd: float, precision: str = "no") -> None:
        self.config = SimSiam(
            data=DataConfig(train=args.data, image_size=args.size, workers=args.workers),
            model=ModelConfig(arch=args.arch),
            optim=OptimConfig(batch_size=args.batch),
            spd=SpdConfig(weight=spd),
            out=Path(tempfile.gettempdir()),
        )
        self.device, self.mixed = torch.device("cuda" if torch.cuda.is_available() else "cpu"), precision == "bf16"
        layout = memory_layout(self.device)
        torch.manual_seed(0)
        backbone = timm.create_model(args.arch, num_classes=0)
        expected = timm.data.resolve_model_data_config(backbone)
        self.method = build_method(self.config, backbone).to(self.device, memory_format=layout).train()
        self.optimizer = make_optimizer(self.method, self.config.optim, fused=self.device.type == "cuda")
        images = open_images(args.data)
        self.crops, self.schedule = Crops(images, self.config), make_schedule(images, args.batch, 0)
        self.make_views = ViewMaker(self.config, expected["mean"], expected["std"], self.device)
        names = ("anchor", "second", *(("positive", "negative") if spd > 0 else ()))
        shape = (args.batch, 3, args.size, args.size)
        self.ready = {name: torch.randn(shape, device=self.device).contiguous(memory_format=layout) for name in names}
        self.steps, total = args.steps, (args.rounds + 1) * args.steps + 1
        self.loader = iter(make_loader(self.crops, self.schedule, 0, total, args.workers))
        self.seconds([self.ready] * 2)
        self.whole()

    def bare(self) -> float:
        """Seconds for a block of steps on tensors in memory."""
        return self.seconds([self.ready] * self.steps)

    def whole(self) -> float:
        """Seconds for a block of steps with data."""
        return self.seconds(self.make_views(batch) for batch in itertools.islice(self.loader, self.steps))

    def seconds(self, batches: Iterable[dict[str, Tensor]]) -> float:
        """Train on batches."""
        start, weight = time.perf_counter(), self.config.spd.weight
        for step, views in enumerate(batches):
            set_learning_rate(self.optimizer, self.config.optim, step, self.schedule.steps_per_epoch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                out = self.method(views)
            loss = out["loss_base"] + (weight * out["loss_spd"] if weight > 0 else 0)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def calls(self) -> str:
        """Operator calls and synchronisations of one step with data."""
        batch = next(self.loader)
        on_gpu = self.device.type == "cuda"
        with warnings.catch_warnings(record=True) as waits, CallCounter(self.device.type) as counter:
            warnings.simplefilter("always")
            if on_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            views = self.make_views(batch)
            of_views = counter.calls
            self.seconds([views])
            if on_gpu:
                torch.cuda.set_sync_debug_mode("default")
        count = sum("synchronizing" in str(warning.message) for warning in waits) if on_gpu else "not measurable"
        return f"{counter.calls} calls, {of_views} of them for the views; synchronisations: {count}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of photographs or shards")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="steps per block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    args = parser.parse_args()

    if not torch.cuda.is_available():
        keep_freed_memory()
    base, spd = Training(args, 0.0), Training(args, 0.1)
    mixed = Training(args, 0.1, args.precision) if args.precision != "no" else None
    rows, gains = [], []
    for _ in range(args.rounds):
        base_bare, base_whole, spd_bare, spd_whole = base.bare(), base.whole(), spd.bare(), spd.whole()
        rows.append((base_whole / base_bare, spd_whole / spd_bare, spd_whole / base_whole))
        if mixed:
            gains.append(mixed.whole() / spd_whole)
        per_second = args.steps * args.batch / spd_whole
        print(f"without SPD {base_bare:.2f} s on tensors in memory, {base_whole:.2f} s with data; ", end="")
        print(f"with SPD {spd_bare:.2f} s, {spd_whole:.2f} s ({per_second:.1f} images/s)", flush=True)
    without, with_spd, cost = (statistics.median(column) for column in zip(*rows, strict=True))
    passes = len(spd.ready) / len(base.ready)
    print(f"{args.arch} {args.size} px, {base.device}: ", end="")
    print(f"with data / on tensors in memory {without:.3f}, with SPD {with_spd:.3f}")
    print(f"SPD step / base step {cost:.3f}; {passes:.0f} times as many images pass through the encoder")
    decoded = images_per_core_second(spd.crops, spd.schedule)
    print(f"one core decodes {decoded:.0f} images/s; an SPD step: {spd.calls()}")
    if gains:
        print(f"bf16 step / float32 step {statistics.median(gains):.3f}, with SPD and data")


if __name__ == "__main__":
    main()
