"""Small photographs, small configurations, and what runs wrote."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from train.config import Config, DataConfig, ModelConfig, OptimConfig
from train.recipes import RECIPES, MoCoConfig, SimCLRConfig, SimSiam, SimSiamConfig

ROOT = Path(__file__).parents[2]
ARCH = "test_resnet"


SMALL = {
    "simsiam": {"simsiam": SimSiamConfig(projector_dim=32, predictor_dim=8)},
    "moco": {"moco": MoCoConfig(dim=16, queue_size=16)},
    "simclr": {"simclr": SimCLRConfig(projector_dim=16)},
    "supervised": {},
}


def write_photos(folder: Path, count: int = 24, side: int = 48, seed: int = 0) -> Path:
    """Smooth random pictures of varied shape, as JPEG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        size = (side + int(rng.integers(0, 30)), side + int(rng.integers(0, 30)))
        name = f"{i:03d}.png" if i % 4 == 0 else f"{i:03d}.jpg"
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


def small_config(photos: Path, out: Path, **changes: object) -> Config:
    """A SimSiam run of seconds."""
    config = {
        "data": DataConfig(train=str(photos), image_size=32, workers=0, max_bad_fraction=0.2),
        "model": ModelConfig(arch=ARCH),
        "optim": OptimConfig(epochs=2, batch_size=8),
        "simsiam": SimSiamConfig(projector_dim=32, predictor_dim=8),
        "log_every": 1,
        "out": out,
    }
    return SimSiam(**(config | changes))


def recipe_config(recipe: str, photos: Path, out: Path, weight: float, **changes: object) -> Config:
    """Any recipe as small as `small_config`, at its own optimiser and schedule."""
    own = RECIPES[recipe](data=DataConfig(train=str(photos)), out=out)
    optim = {"epochs": 2, "batch_size": 8, **changes.pop("optim", {})}
    return dataclasses.replace(
        own,
        data=DataConfig(train=str(photos), image_size=32, workers=0),
        model=dataclasses.replace(own.model, arch=ARCH),
        optim=dataclasses.replace(own.optim, **optim),
        spd=dataclasses.replace(own.spd, weight=weight),
        log_every=1,
        **{**SMALL.get(recipe, {}), **changes},
    )


def arguments(photos: Path, out: Path, *more: str) -> list[str]:
    """The same run on the command line."""
    return [
        "simsiam", "--data.train", str(photos), "--out", str(out), "--model.arch", ARCH,
        "--data.image-size", "32", "--data.workers", "0", "--data.max-bad-fraction", "0.2",
        "--optim.epochs", "2", "--optim.batch-size", "8",
        "--simsiam.projector-dim", "32", "--simsiam.predictor-dim", "8", "--log-every", "1", *more,
    ]  # fmt: skip


def run_train(*args: str, launcher: tuple[str, ...] = ("-m", "train"), **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, *launcher, *args],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    for (name, left), right in zip(weights(a).items(), weights(b).values(), strict=True):
        assert torch.equal(left, right), name


def free_port() -> str:
    """A port for processes to meet at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
