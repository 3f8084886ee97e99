"""The time of a 1-class evaluation of one weight on all of VisA, estimated from measured parts.

    OMP_NUM_THREADS=1 python -m tests.bench.visa --weights random:resnet50

Prints the CPU seconds of each part (wall time is unreliable on a busy machine), and from them those of the 12 objects
with 8,659 training and 2,162 test images, for PaDiM and for PatchCore with one seed. Divide by the number of cores. A
coreset is timed on 100,000 patches; its time grows with the number of patches times the number of centres. The number
of operations of a backbone pass is printed to estimate the time on other machines. For the 2-class protocols see
`tests.bench.two_class`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from eval.backbone.features import Extractor
from eval.data.images import read_image
from eval.detectors.bank.coreset import greedy_coreset
from eval.detectors.base import Detector
from eval.detectors.methods import DETECTORS, Settings, build_detectors
from eval.detectors.patchcore import PROJECTION
from eval.metrics.metrics import pixel_metrics

_TRAIN = (900, 542, 450, 453, 450, 900, 900, 904, 901, 905, 904, 450)  # images of each object
_TEST = 2162  # of all objects
_PHOTO = (1500, 1000)
_BATCH = 8
_POINTS, _CENTRES = 100_000, 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="random:resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--coreset-ratio", type=float, default=0.01)
    args = parser.parse_args()
    settings = Settings(image_size=args.image_size, coreset_ratio=args.coreset_ratio)
    print(f"{args.weights}, {args.image_size} px, {torch.get_num_threads()} threads; CPU seconds")
    decoding = _seconds_of_decoding(args.image_size)
    images = torch.randint(256, (_BATCH, 3, args.image_size, args.image_size)).byte()
    passes = {}
    for precision in ("fp32", "bf16"):
        extractor = Extractor(args.weights, args.image_size, (4, 8, 16), precision)
        passes[precision] = _seconds(lambda run=extractor: run(images), 5) / _BATCH
    with FlopCounterMode(display=False) as counter:
        extractor(images[:1])
    metrics = _seconds_of_metrics(args.image_size)
    print(
        f"per image: decoding {decoding:.4f}, pass {passes['fp32']:.4f} ({passes['bf16']:.4f} in bfloat16; "
        f"{counter.get_total_flops() / 1e9:.1f} GFLOP), pixel metrics {metrics:.4f}"
    )
    features = extractor(images)
    for name in ("padim", "patchcore"):
        maps = extractor.select(features, DETECTORS[name].reductions)
        learning, fitting, scoring = _seconds_of_method(name, maps, settings)
        for precision, one in passes.items():
            total = (decoding + one) * (sum(_TRAIN) + _TEST) + (scoring + metrics) * _TEST
            total += learning * sum(_TRAIN) + sum(fitting(train) for train in _TRAIN)
            print(f"{name}, {precision}: learning {learning:.4f} and scoring {scoring:.4f} per image, "
                  f"fitting {fitting(900):.1f} for 900 images; VisA {total:.0f}")  # fmt: skip


def _seconds_of_method(
    name: str, maps: list[torch.Tensor], settings: Settings
) -> tuple[float, Callable[[int], float], float]:
    """Seconds to learn from an image, to fit as a function of the number of training images, and to score an image."""
    (detector,) = build_detectors(name, settings, [0], 4 * _BATCH)
    learning = _seconds(lambda: detector.update([feature.clone() for feature in maps]), 4, total=True) / (4 * _BATCH)
    if name == "padim":
        once = _seconds(detector.fit, 1)
        return learning, lambda train: once, _seconds(lambda: detector(maps), 3) / _BATCH
    points = torch.randn(_POINTS, PROJECTION)
    selection = _seconds(lambda: greedy_coreset(points, _CENTRES, 0), 1)
    patches = maps[0].shape[2] * maps[0].shape[3]
    bank = torch.randn(round(settings.coreset_ratio * sum(_TRAIN) / len(_TRAIN) * patches), _channels(detector))
    detector.load_state_dict({"bank": bank})

    def fitting(train: int) -> float:
        count = train * patches
        return selection * (count / _POINTS) * (settings.coreset_ratio * count / _CENTRES)

    return learning, fitting, _seconds(lambda: detector(maps), 3) / _BATCH


def _channels(detector: Detector) -> int:
    detector.fit()
    return detector.bank.shape[1]


def _seconds_of_decoding(size: int) -> float:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.jpg")
        coarse = Image.fromarray(rng.integers(0, 256, (100, 150, 3), dtype=np.uint8))
        coarse.resize(_PHOTO, Image.Resampling.BICUBIC).save(path, quality=90)
        return _seconds(lambda: read_image(path, size), 10)


def _seconds_of_metrics(size: int, images: int = 24) -> float:
    rng = np.random.default_rng(0)
    maps = rng.random((images, size, size), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[::2, : size // 10, : size // 10] = True
    return _seconds(lambda: pixel_metrics(maps, masks), 1) / images


def _seconds(run: Callable[[], object], times: int, total: bool = False) -> float:
    """CPU seconds: the minimum of several runs, or their sum."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return sum(taken) if total else min(taken)


if __name__ == "__main__":
    main()
