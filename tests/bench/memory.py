"""Peak memory of every method, from 100 and from 1,000 training images. `python -m tests.bench.memory`

Each measurement runs in its own process, from image files to scores and maps, on small features (of an untrained
test_resnet at --image-size). It counts anonymous memory. Pages of the nameless files that hold patches, decoded images,
maps and masks are not counted, because the system can reclaim them at any time. Fails if the peak grows by more than
16 MB, the variation between runs. Only PatchCore may grow: while it selects its coreset, it holds every patch twice in
128 projected dimensions, 1 kB per patch, and two blocks of patches.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from eval.data.datasets import Category, Sample
from eval.detectors.methods import DETECTORS, Settings
from eval.detectors.one_class import OneClassPredictor
from eval.detectors.patchcore import PROJECTION
from eval.detectors.patches import BLOCK_FLOATS
from eval.finetune.training import Training
from eval.finetune.two_class import TwoClassPredictor
from eval.predictions import Run
from eval.protocols import PROTOCOLS

_WEIGHTS = "random:test_resnet"
_TEST = 16  # images
_STRIDE = 8  # pixels from patch to patch of PatchCore's grid
_NOISE = 16  # MB
_METHODS = tuple(dict.fromkeys(method for methods in PROTOCOLS.values() for method in methods))


def main() -> int:
    """Measure and print; 1 where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=_METHODS, default=_METHODS)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(_peak_of(args.method[0], args.measure, args.image_size))
        return 0
    passed = True
    for method in args.method:
        few, many = (_measured(method, images, args.image_size) for images in (100, 1000))
        grows = many - few > _NOISE + (_selection(args.image_size) if method == "patchcore" else 0)
        print(f"{method}: {few:.0f} MB from 100 images, {many:.0f} MB from 1,000" + (": grows" if grows else ""))
        passed &= not grows
    return 0 if passed else 1


def _selection(size: int) -> float:
    """Megabytes that PatchCore may hold of 900 images' patches."""
    patches = 900 * (size // _STRIDE) ** 2
    return 4 * (1.05 * patches * (2 * PROJECTION + 2) + 2 * BLOCK_FLOATS) / 1e6


def _measured(method: str, images: int, size: int) -> float:
    command = [sys.executable, "-m", "tests.bench.memory", "--method", method, "--image-size", str(size)]
    done = subprocess.run([*command, "--measure", str(images)], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def _peak_of(method: str, images: int, size: int) -> float:
    """Megabytes."""
    with tempfile.TemporaryDirectory() as folder, _Watch() as watch:
        category = _category(Path(folder), images, size, both_classes=method not in DETECTORS)
        if method in DETECTORS:
            settings = Settings(image_size=size, coreset_ratio=0.01)
            predictor = OneClassPredictor(_WEIGHTS, [method], settings)
        else:
            training = Training(classifier_size=size, unet_size=size, epochs=1, min_steps=1)
            predictor = TwoClassPredictor(_WEIGHTS, method, training)
        predictor.predict(category, [Run("bench", method, 0)], 0, lambda stage, done, of: None)
    return watch.peak / 1e6


def _category(folder: Path, images: int, size: int, both_classes: bool) -> Category:
    """Images of noise, all different, so that PatchCore finds no duplicate patches."""
    rng = np.random.default_rng(0)
    mask = folder / "mask.png"
    Image.fromarray((rng.random((size, size)) < 0.01).view(np.uint8) * 255).save(mask)
    samples = []
    for index in range(images + _TEST):
        photo = folder / f"{index}.bmp"
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(photo)
        anomalous = index % 2 == 1 and (both_classes or index >= images)
        samples.append(Sample(photo, anomalous, mask if anomalous else None, "noise" if anomalous else "good"))
    return Category("bench", "noise", folder, tuple(samples[:images]), tuple(samples[images:]))


class _Watch(threading.Thread):
    """Peak anonymous memory of this process in bytes, sampled every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(line for line in lines if line.startswith("RssAnon")).split()[1]
            self.peak = max(self.peak, int(kilobytes) * 1024)
            time.sleep(0.003)

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


if __name__ == "__main__":
    sys.exit(main())
