"""Pixel AUROC and average precision against scikit-learn on the same maps, and peak memory for many maps.

    python -m tests.bench.pixel_metrics

Passes if ours is at least ten times faster on 100 maps of 512 x 512 and equal to 1e-6, and if 1,000 such maps, streamed
from a float16 file, need less than 1 GB of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from eval.metrics.metrics import metrics_of_pixels, pixel_metrics
from eval.metrics.pixels import PixelRanking

_SIDE = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=100, help="maps of the comparison (100)")
    parser.add_argument("--many", type=int, default=1000, help="maps of the memory measurement (1000)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(_streamed(given.measure)))
        return 0
    passed = _bounded(given.many)
    return 0 if _faster_and_equal(given.maps) and passed else 1


def _faster_and_equal(count: int) -> bool:
    from sklearn.metrics import average_precision_score, roc_auc_score

    maps, masks = zip(*(_image(index) for index in range(count)), strict=True)
    maps, masks = np.stack(maps), np.stack(masks)
    started = time.perf_counter()
    ours = pixel_metrics(maps, masks)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    theirs = {
        "pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel()),
        "pixel_aupr": average_precision_score(masks.ravel(), maps.ravel()),
    }
    their_seconds = time.perf_counter() - started
    difference = max(abs(ours[name].value - value) for name, value in theirs.items())
    ratio = their_seconds / seconds
    print(f"{count} maps of {_SIDE} x {_SIDE}, {100 * masks.mean():.2f} % defect pixels")
    print(f"  scikit-learn, AUROC and AP        {their_seconds:7.2f} s")
    print(f"  ours, those and {len(ours) - 2} others         {seconds:7.2f} s   {ratio:.1f} x faster (at least 10)")
    print(f"  largest difference                {difference:.1e}     (at most 1e-6)")
    return ratio >= 10 and difference <= 1e-6


def _bounded(count: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        maps = np.lib.format.open_memmap(f"{folder}/maps.npy", "w+", np.float16, (count, _SIDE, _SIDE))
        masks = np.lib.format.open_memmap(f"{folder}/masks.npy", "w+", bool, (count, _SIDE, _SIDE))
        for index in range(count):
            maps[index], masks[index] = _image(index)
        maps.flush()
        masks.flush()
        command = [sys.executable, "-m", "tests.bench.pixel_metrics", "--measure", folder]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{count} maps, streamed from float16 files: {measured['seconds']:.1f} s")
    print(f"  peak memory                       {measured['peak']:7.0f} MB  (at most 1000), of it")
    print(f"  before the first map              {measured['before']:7.0f} MB")
    return measured["peak"] < 1000


def _streamed(folder: Path) -> dict[str, float]:
    """Read one image at a time; cached pages of a memory-mapped array would count as memory of this process."""
    count = np.load(folder / "maps.npy", mmap_mode="r").shape[0]
    before = _peak()
    started = time.perf_counter()
    pixels = PixelRanking()
    for add in (pixels.add_defects, pixels.add_background):
        for index in range(count):
            add(*(np.load(folder / f"{name}.npy", mmap_mode="r")[index] for name in ("maps", "masks")))
    metrics_of_pixels(pixels)
    return {"seconds": time.perf_counter() - started, "peak": _peak(), "before": before}


def _image(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A map of continuous scores, higher in the defect; every other image has a defect that covers 0.1 to 4 %."""
    rng = np.random.default_rng(index)
    scores = rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
    mask = np.zeros(scores.shape, bool)
    if index % 2:
        height, width = rng.integers(16, 104, 2)
        top, left = rng.integers(0, _SIDE - height), rng.integers(0, _SIDE - width)
        mask[top : top + height, left : left + width] = True
        scores[mask] += 1.5
    return scores, mask


def _peak() -> float:
    """Peak memory of this program in MB; `getrusage` would include what the parent process held."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
