"""What the 2-class protocols cost: a training step, a test image, and from them the 12 objects of VisA.

    python -m tests.bench.two_class --weights random:resnet50 --classifier-size 224 --unet-size 448

For each method, prints the seconds per step of the training loop (with data and optimiser), their ratio to the bare
forward and backward passes of the same network, and the seconds per test image, decoding included; and the hours of all
three protocols with 5 seeds that follow from VisA's image counts. `--operations` counts floating-point operations
instead of measuring, to estimate the time on other machines.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from eval.data.images import batches
from eval.finetune.training import Network, Training, finetune, logits_of
from eval.finetune.two_class import NETWORKS, TwoClassPredictor

_NORMALS = (1000, 602, 500, 503, 500, 1000, 1000, 1004, 1001, 1006, 1005, 500)  # of each object; 100 anomalies each
_SEEDS = 5
_PHOTO = (1500, 1000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="random:resnet18")
    parser.add_argument("--classifier-size", type=int, default=Training.classifier_size)
    parser.add_argument("--unet-size", type=int, default=Training.unet_size)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--operations", action="store_true", help="count instead of measuring")
    args = parser.parse_args()
    training = Training(args.classifier_size, args.unet_size, epochs=1, min_steps=args.steps)
    print(f"{args.weights}, {torch.get_num_threads()} threads, batches of {training.batch_size}")
    for method in NETWORKS:
        finetuner = TwoClassPredictor(args.weights, method, training)
        network, size = finetuner.network(0), finetuner.image_size
        steps, images = whole_evaluation(Training())
        if args.operations:
            step, image = operations(network, size, training.batch_size)
            print(
                f"{method} at {size} px: {step / 1e12:.2f} TFLOP per step, {image / 1e12:.3f} per test image; VisA, "
                f"3 protocols, {_SEEDS} seeds: {(steps * step + images * image) / 1e15:.0f} PFLOP"
            )
            continue
        network = network.to(memory_format=torch.channels_last)
        step, bare = seconds_of_a_step(network, size, training, masks=method == "unet")
        image = seconds_of_a_test_image(network, size, args.workers)
        print(
            f"{method} at {size} px: {step:.3f} s per step, {step / bare:.2f} times its bare passes; "
            f"{image:.3f} s per test image; VisA, 3 protocols, {_SEEDS} seeds: {steps} steps, {images} test images, "
            f"{(steps * step + images * image) / 3600:.1f} h"
        )


def seconds_of_a_step(network: Network, size: int, training: Training, masks: bool) -> tuple[float, float]:
    """Minimum seconds of a step of the loop, and of forward and backward passes alone."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, size, size), dtype=np.uint8)
    truth = rng.random((20, size, size)) < 0.01 if masks else np.arange(20) % 2 == 0
    ends = [time.perf_counter()]
    finetune(network, images, truth, training, rng, lambda done, of: ends.append(time.perf_counter()))
    batch = torch.from_numpy(images[: training.batch_size]).contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(truth[: training.batch_size]).float()
    alone = [time.perf_counter()]
    for _ in range(training.min_steps):
        network.loss(network(batch), target).backward()
        network.zero_grad()
        alone.append(time.perf_counter())
    return tuple(float(np.diff(times).min()) for times in (ends, alone))


def operations(network: Network, size: int, batch_size: int) -> tuple[float, float]:
    """Floating-point operations of a training step and of a test image, counted on meta tensors."""
    network = network.to("meta")
    counts = []
    for images, learn in ((batch_size, True), (1, False)):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(learn):
            logits = network.train(learn)(torch.zeros(images, 3, size, size, device="meta"))
            if learn:
                logits.sum().backward()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def seconds_of_a_test_image(network: Network, size: int, workers: int, images: int = 32) -> float:
    """Seconds to decode, resize and score a JPEG photograph of VisA's size."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.jpg")
        coarse = Image.fromarray(rng.integers(0, 256, (100, 150, 3), dtype=np.uint8))
        coarse.resize(_PHOTO, Image.Resampling.BICUBIC).save(path, quality=90)
        started = time.perf_counter()
        for pixels in batches([path] * images, size, 8, workers):
            logits_of(network.eval(), pixels)
        return (time.perf_counter() - started) / images


def whole_evaluation(training: Training) -> tuple[int, int]:
    """Training steps and test images of one method on VisA's 12 objects, in all protocols and repetitions."""
    steps = images = 0
    for normals in _NORMALS:
        high, pool = round(0.6 * normals) + 60, round(0.2 * normals) + 20
        everything = normals + 100
        steps += training.steps(high) + training.steps(10) + training.steps(20)
        images += (everything - high) + 2 * (everything - pool)
    return _SEEDS * steps, _SEEDS * images


if __name__ == "__main__":
    main()
