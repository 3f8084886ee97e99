"""GPU hours of the planned ImageNet weights, from the images/s that `--plan` measures on one GPU.

    python -m tests.bench.imagenet_hours --out results/imagenet_hours

Plans every row of docs/imagenet_set.md, with SPD and without, on synthetic photographs of ImageNet's usual size
(500 × 375 px), with the images that one of eight GPUs gets. Hours of a row are epochs × images ÷ images/s ÷ 3600.
A row that does not fit on the GPU is planned again with `--model.checkpointing`. Writes rows.json and README.md.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.results_folder import markdown_table
from spd_weights.environment import environment
from spd_weights.files import write_json, write_text
from train.recipes import RECIPES

from .shards import photograph

ROWS = {
    "resnet50_spd.simsiam_in1k": ["simsiam"],
    "resnet50_spd.moco_in1k": ["moco"],
    "resnet50_spd.simclr_in1k": ["simclr"],
    "resnet50_spd.supervised_in1k": ["supervised"],
    "wide_resnet50_2_spd.simsiam_in1k": ["simsiam", "--model.arch", "wide_resnet50_2"],
    "wide_resnet50_2_spd.supervised_in1k": ["supervised", "--model.arch", "wide_resnet50_2"],
}
GPUS, TRAIN_IMAGES, PHOTOGRAPHS, DISTINCT = 8, 1_281_167, 4096, 256
INTRODUCTION = """# GPU hours of the ImageNet set

What the rows of [the ImageNet set](../../docs/imagenet_set.md) take, from a few steps of each on one GPU, by
`python -m tests.bench.imagenet_hours --out results/imagenet_hours`. The photographs are synthetic, of ImageNet's usual
size, and on a local disk. *Batch* is what one of eight GPUs gets. *Passes* are encoder passes per second, forward and
backward. Hours are those of eight GPUs that lose nothing to each other: **exchange between GPUs, validation and
checkpoints were not measured.**
"""


def write_photographs(folder: Path) -> None:
    """Two classes of JPEGs of 500 × 375 px; every sixteenth has pixels of its own, the others are links."""
    rng = np.random.default_rng(0)
    for index in range(PHOTOGRAPHS):
        path = folder / f"class{index % 2}" / f"{index:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        if index >= DISTINCT:
            os.link(folder / f"class{index % 2}" / f"{index % DISTINCT:04d}.jpg", path)
            continue
        path.write_bytes(photograph(rng))


def measure(row: str, spd_weight: str, photographs: Path, options: list[str]) -> dict[str, Any]:
    """Plan a row on one GPU; recompute activations if they do not fit."""
    optim = RECIPES[ROWS[row][0]].optim
    batch = optim.batch_size // GPUS
    command = [sys.executable, "-m", "train", *ROWS[row], "--data.train", str(photographs), "--spd.weight", spd_weight]
    command += ["--optim.batch-size", str(batch), "--precision", "bf16", "--plan"]
    command += ["--out", str(photographs / "run"), *options]
    for checkpointing in (False, True):
        done = subprocess.run(command + ["--model.checkpointing"] * checkpointing, capture_output=True, text=True)
        if "out of memory" not in done.stderr.lower():
            break
    speed = re.search(r"measured +([\d,.]+) images/s, \S+ s per step, (\d+) %", done.stdout)
    passes = re.search(r"passes +([\d.]+) encoder", done.stdout)
    memory = re.search(r"peak ([\d.]+) GiB", done.stdout)
    if not (speed and passes and memory):
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr[-2000:]}")
    return {
        "row": row + ("_eta0" if spd_weight == "0" else ""),
        "epochs": optim.epochs,
        "batch": batch,
        "checkpointing": checkpointing,
        "images_per_second": float(speed[1].replace(",", "")),
        "data_wait_percent": int(speed[2]),
        "passes_per_image": float(passes[1]),
        "memory_gib": float(memory[1]),
    }


def hours(row: dict[str, Any]) -> float:
    """GPU hours of all epochs."""
    return row["epochs"] * TRAIN_IMAGES / row["images_per_second"] / 3600


def render(results: dict[str, Any]) -> str:
    """README.md, from what rows.json holds."""
    where = results["environment"]
    table = [["row", "batch", "GiB", "images/s", "waits for data", "passes/s", "GPU hours", "hours on 8 GPUs"]]
    for row in results["rows"]:
        rate, note = row["images_per_second"], ", checkpointing" if row["checkpointing"] else ""
        values = [
            f"`{row['row']}`",
            f"{row['batch']}{note}",
            f"{row['memory_gib']:.0f}",
            f"{rate:,.0f}",
            f"{row['data_wait_percent']} %",
            f"{rate * row['passes_per_image']:,.0f}",
            f"{hours(row):.0f}",
            f"{hours(row) / GPUS:.1f}",
        ]
        table.append(values)
    total = sum(hours(row) for row in results["rows"])
    versions = ", ".join(f"{name} {where['packages'][name]}" for name in ("torch", "timm"))
    return (
        f"{INTRODUCTION}\n{markdown_table(table)}\n\nAll together: {total:,.0f} GPU hours. bf16, other options: "
        f"{' '.join(results['options']) or 'none'}. {where['gpus'][0]}, {where['cores']} cores, {versions}.\n"
    )


def main() -> None:
    """Measure and render; unknown options go to every `python -m train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.json and README.md")
    parser.add_argument("--row", nargs="+", choices=list(ROWS), default=list(ROWS))
    args, options = parser.parse_known_args()
    if not torch.cuda.is_available():
        parser.error("this measures a GPU, and torch finds none")
    results: dict[str, Any] = {"rows": [], "options": options, "environment": environment()}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        for row in args.row:
            for spd_weight in ("0.1", "0"):
                results["rows"].append(measure(row, spd_weight, Path(folder), options))
                print(results["rows"][-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "rows.json", results)
    write_text(args.out / "README.md", render(results))


if __name__ == "__main__":
    main()
