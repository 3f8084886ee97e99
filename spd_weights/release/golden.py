"""Golden features: what a backbone answers to a fixed picture, so that anybody can see it answers the same.

A digest says that the bytes are right, not that an installation computes with them what it should.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Our choice: float32 sums in another order (threads, instruction sets, versions of torch) differ by 1e-6 to 1e-5.
TOLERANCE = 1e-4


def measure(backbone: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure every stage's feature map of the test picture, in float32 on the CPU, without dropout.

    Args:
        backbone: A timm model without classifier, on the CPU.
        config: The content of config.json: size, channels, mean and std are taken from there.

    Returns:
        For each stage, JSON-ready: `stage` (its name), `shape` (C, H, W), `mean` and `norm` (Euclidean) over the map.
    """
    cfg = config["pretrained_cfg"]
    channels, *size = cfg["input_size"]
    if not cfg["fixed_input_size"]:
        size = [64, 64]
    mean, std = (torch.tensor(cfg[key], dtype=torch.float32).view(-1, 1, 1) for key in ("mean", "std"))
    picture = ((pattern(channels, *size) - mean) / std)[None]
    was_training = backbone.training
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        maps = backbone.eval().forward_intermediates(picture, intermediates_only=True, output_fmt="NCHW")
    backbone.train(was_training)
    names = [stage["module"] for stage in backbone.feature_info]
    return [
        {
            "stage": name,
            "shape": list(feature_map.shape[1:]),
            "mean": feature_map.double().mean().item(),
            "norm": feature_map.double().norm().item(),
        }
        for name, feature_map in zip(names, maps, strict=True)
    ]


def pattern(channels: int, height: int, width: int) -> torch.Tensor:
    """Draw the picture: shapes (channels, height, width), float32 in [0, 1], the same bits everywhere.

    Integers alone make it: gradients, edges at every scale and a texture, different in each channel.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [((x * (c + 2)) ^ (y * 3) ^ ((x * y) >> (c % 3 + 3))) % 256 for c in range(channels)]
    return torch.stack(planes).to(torch.float32) / 255


def distance(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """The largest difference of a stage's norm, relative to the norm."""
    return max(abs(float(now["norm"] / then["norm"]) - 1) for then, now in zip(expected, found, strict=True))


def difference(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> str | None:
    """Compare what `measure` gave then and now.

    Returns:
        The first difference beyond TOLERANCE (of the norm; of the root mean square for the mean), or None.
    """
    if [(each["stage"], each["shape"]) for each in expected] != [(each["stage"], each["shape"]) for each in found]:
        return "the stages or their shapes are others"
    for then, now in zip(expected, found, strict=True):
        scale = then["norm"] / math.sqrt(math.prod(then["shape"]))
        for key, unit in (("norm", then["norm"]), ("mean", scale)):
            if not abs(now[key] - then[key]) <= TOLERANCE * unit:
                return f"{then['stage']} has {key} {now[key]:.7g}, expected {then[key]:.7g}"
    return None
