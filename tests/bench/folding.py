"""What folding batch normalisation saves of a frozen backbone's pass. `OMP_NUM_THREADS=1 python -m tests.bench.folding`

Prints CPU milliseconds per image for the maps of three stages, measured in turns: timm's network in its own layout, in
channels-last like the evaluation, and folded as well; and the largest relative difference that folding made to a map.
"""

import argparse
import time

import timm
import torch
from torch import Tensor, nn

from eval.backbone.folding import folded

_BATCH = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["mobilenetv2_100", "efficientnet_b0", "resnet18", "resnet50"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    for arch in args.arch:
        images = torch.randn(_BATCH, 3, args.image_size, args.image_size)
        last = images.contiguous(memory_format=torch.channels_last)
        own = timm.create_model(arch).eval().requires_grad_(False)
        plain = timm.create_model(arch).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        lighter = folded(plain, lambda network, seen=last: maps(network, seen))
        networks = {"timm's": (own, images), "channels-last": (plain, last), "folded": (lighter, last)}
        taken = {name: seconds(*given) for name, given in networks.items()}
        for _ in range(args.times - 1):
            taken = {name: min(taken[name], seconds(*given)) for name, given in networks.items()}
        pairs = zip(maps(plain, last), maps(lighter, last), strict=True)
        difference = max(float((a - b).norm() / a.norm()) for a, b in pairs)
        shown = ", ".join(f"{name} {1000 * one / _BATCH:.1f}" for name, one in taken.items())
        print(f"{arch}: {shown}; ratio {taken['folded'] / taken['channels-last']:.2f}, difference {difference:.0e}")


@torch.inference_mode()
def maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of the stages that PaDiM reads."""
    return network.forward_intermediates(images, indices=[1, 2, 3], stop_early=True, intermediates_only=True)


def seconds(network: nn.Module, images: Tensor) -> float:
    """CPU seconds of one pass."""
    started = time.process_time()
    maps(network, images)
    return time.process_time() - started


if __name__ == "__main__":
    main()
