"""PaDiM without the backbone's passes against anomalib's, in one run, on the same features.

    pip install "anomalib==2.*"
    python -m tests.bench.padim --train 100 --test 50

Features have a ResNet-18's shapes at 224 px (layer1 to layer3), or with `--wide` a ResNet-50's, of which 100
and 550 channels are kept, the same in both. anomalib needs 12 GB of memory for the latter. Prints CPU seconds of
learning and scoring (wall time is unreliable on a busy machine; set OMP_NUM_THREADS=1 there), their ratio, and the
difference of the maps inside the border (anomalib pads it differently, and adds 1e-5 to the ridge). Fails below a ratio
of 10 or above a difference of 1e-3. anomalib is optional; without it only our figures are printed. Memory is measured
by `tests.bench.memory`.
"""

import argparse
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.detectors.padim import Padim

_SIDES = (56, 28, 14)
_CHANNELS = {False: (64, 128, 256), True: (256, 512, 1024)}
_SIZE = 224
_BATCH = 8
_BORDER = 16  # pixels: the radius of the Gaussian


def main() -> int:
    """Measure and print; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=100, help="images")
    parser.add_argument("--test", type=int, default=50, help="images")
    parser.add_argument("--wide", action="store_true", help="a ResNet-50's features instead of a ResNet-18's")
    args = parser.parse_args()
    torch.manual_seed(0)
    return 0 if _compare(args.train, args.test, args.wide) else 1


def _compare(train: int, test: int, wide: bool) -> bool:
    batches = [features(_BATCH, wide) for _ in range((train + test) // _BATCH)]
    warm = Padim(_SIZE, seed=0)  # excludes the libraries' one-time initialisation
    warm.update(batches[0])
    warm.fit()
    started = time.process_time()
    padim = Padim(_SIZE, seed=0)
    for batch in batches[: train // _BATCH]:
        padim.update(batch)
    padim.fit()
    maps = torch.cat([padim(batch)[1] for batch in batches[train // _BATCH :]])
    ours = time.process_time() - started
    print(f"ours {ours:.2f} s, {torch.get_num_threads()} threads")
    try:
        from anomalib.models.components import MultiVariateGaussian
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
    except ImportError:
        print("anomalib is not installed, so there is nothing to compare with")
        return True
    channels = padim.channels
    started = time.process_time()
    gaussian, generator = MultiVariateGaussian(), AnomalyMapGenerator()
    mean, inverse = gaussian.fit(torch.cat([embedding(batch, channels) for batch in batches[: train // _BATCH]]))
    found = [
        generator(embedding=embedding(b, channels), mean=mean, inv_covariance=inverse, image_size=(_SIZE, _SIZE))
        for b in batches[train // _BATCH :]
    ]
    theirs = time.process_time() - started
    inside = slice(_BORDER, _SIZE - _BORDER)
    expected = torch.cat(found)[:, 0, inside, inside]
    difference = float(((maps[:, inside, inside] - expected) / expected).abs().max())
    print(
        f"anomalib {theirs:.2f} s, ratio {theirs / ours:.1f}, largest relative difference of the maps {difference:.1e}"
    )
    return theirs / ours >= 10 and difference < 1e-3


def features(images: int, wide: bool = False) -> list[Tensor]:
    """A batch of non-negative feature maps, as after a ReLU."""
    shapes = zip(_CHANNELS[wide], _SIDES, strict=True)
    return [torch.randn(images, channels, side, side).relu_() for channels, side in shapes]


def embedding(batch: list[Tensor], channels: Tensor) -> Tensor:
    """anomalib's embedding: all layers at the finest grid, concatenated, then the channels selected."""
    grown = [F.interpolate(layer, size=batch[0].shape[-2:], mode="nearest") for layer in batch]
    return torch.cat(grown, dim=1).index_select(1, channels)


if __name__ == "__main__":
    sys.exit(main())
