"""Throughput of two processes against one with as many threads, and the cost of a checkpoint.

`python -m tests.bench.scaling` prints images/s of both at the same global batch, their ratio, and the seconds that
saving a ResNet-50 run takes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

from tests.train.helpers import ROOT, write_photos
from train import checkpoint
from train.config import DataConfig
from train.methods import build_method
from train.optim import make_optimizer
from train.recipes import SimSiam


def images_per_second(folder: Path, processes: int, options: list[str], steps: int) -> float:
    """Median over the logged steps of a run, without the first two."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    threads = {"OMP_NUM_THREADS": str(2 // processes), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "train", "simsiam", *options]
    command += ["--out", str(folder), "--optim.max-steps", str(steps), "--data.workers", "0"]
    subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=True, capture_output=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["images_per_second"] for row in rows[2:])


def save_seconds(folder: Path) -> tuple[float, float]:
    """Median seconds that saving a ResNet-50 SimSiam run takes, and its size in MiB."""
    config = SimSiam(data=DataConfig(train=""), out=folder)
    method = build_method(config, timm.create_model("resnet50", num_classes=0))
    optimizer = make_optimizer(method, config.optim, fused=False)
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    taken = []
    for step in range(5):
        started = time.perf_counter()
        state = checkpoint.Checkpoint(step, method.state_dict(), optimizer.state_dict(), {})
        path = checkpoint.save(folder, state, keep=1)
        taken.append(time.perf_counter() - started)
    size = sum(file.stat().st_size for file in path.iterdir())
    return statistics.median(taken), size / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = write_photos(folder / "photos", 128, side=96)
        options = ["--data.train", str(photos), "--model.arch", "resnet18", "--data.image-size", "64"]
        options += ["--optim.batch-size", "64", "--log-every", "1"]
        one, two = (images_per_second(folder / f"run{n}", n, options, steps) for n in (1, 2))
        print(f"ResNet-18, 64 px, global batch 64: 1 process with 2 threads {one:.1f} images/s, 2 processes {two:.1f}")
        print(f"ratio {two / one:.2f}")
        seconds, size = save_seconds(folder / "checkpoints")
        print(f"saving ResNet-50 SimSiam: {seconds:.2f} s for {size:.0f} MiB; the minimum interval between "
              f"end-of-epoch checkpoints is {100 * seconds:.0f} s, at most 1 % of the time")  # fmt: skip


if __name__ == "__main__":
    main()
