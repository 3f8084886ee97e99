"""PaDiM without the backbone's passes against anomalib's, in one run, on the same features.

    python -m tests.bench.padim --train 100 --test 50

Features have a ResNet-18's shapes at 224 px (layer1 to layer3); both keep the same channels. Prints the
seconds of learning and scoring, their ratio, and how far the maps agree. Needs anomalib, which is no
dependency; without it only our time is printed.
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.padim import Padim

_SHAPES = ((64, 56), (128, 28), (256, 14))  # channels and side of each layer
_SIZE = 224
_BATCH = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=100, help="images")
    parser.add_argument("--test", type=int, default=50, help="images")
    args = parser.parse_args()
    torch.manual_seed(0)
    batches = [features(_BATCH) for _ in range((args.train + args.test) // _BATCH)]
    train, test = batches[: args.train // _BATCH], batches[args.train // _BATCH :]
    started = time.perf_counter()
    padim = Padim(_SIZE, seed=0)
    for batch in train:
        padim.update(batch)
    padim.fit()
    maps = torch.cat([padim.score(batch)[1] for batch in test])
    ours = time.perf_counter() - started
    print(f"ours {ours:.2f} s, {torch.get_num_threads()} threads")
    try:
        from anomalib.models.components import MultiVariateGaussian
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
    except ImportError:
        print("anomalib is not installed, so there is nothing to compare with")
        return
    channels = padim.state()["channels"]
    started = time.perf_counter()
    gaussian, generator = MultiVariateGaussian(), AnomalyMapGenerator()
    statistics = gaussian.fit(torch.cat([embedding(batch, channels) for batch in train]))
    found = [generator(embedding=embedding(b, channels), mean=statistics[0], inv_covariance=statistics[1],
                       image_size=(_SIZE, _SIZE)) for b in test]  # fmt: skip
    theirs = time.perf_counter() - started
    correlation = torch.corrcoef(torch.stack([maps.flatten(), torch.cat(found).flatten()]))[0, 1]
    print(f"anomalib {theirs:.2f} s, ratio {theirs / ours:.1f}, correlation of the maps {correlation:.5f}")


def features(images: int) -> list[Tensor]:
    """A batch of feature maps, not negative, as after a ReLU."""
    return [torch.randn(images, channels, side, side).relu_() for channels, side in _SHAPES]


def embedding(batch: list[Tensor], channels: Tensor) -> Tensor:
    """As anomalib's: every layer at the finest grid, concatenated, then the channels selected."""
    grown = [F.interpolate(layer, size=batch[0].shape[-2:], mode="nearest") for layer in batch]
    return torch.cat(grown, dim=1).index_select(1, channels)


if __name__ == "__main__":
    main()
