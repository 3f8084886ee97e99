"""Golden features: a backbone's response to a fixed test image, so that anyone can check an installation.

A digest proves that the bytes are right. Golden features prove that this installation computes with them what the
exporting one did.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Our choice: float32 sums in another order (threads, instruction sets, versions of torch) differ by 1e-6 to 1e-5.
TOLERANCE = 1e-4


def measure(backbone: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure the feature maps of the test image, in float32 on the CPU, without dropout.

    Args:
        backbone: A timm model without classifier, on the CPU.
        config: The content of config.json; it gives size, channels, mean and std.

    Returns:
        One JSON-ready entry per stage: `stage` (its name), `shape` (C, H, W), and the map's `mean` and Euclidean
        `norm`.
    """
    cfg = config["pretrained_cfg"]
    channels, *size = cfg["input_size"]
    if not cfg["fixed_input_size"]:
        size = [64, 64]
    mean, std = (torch.tensor(cfg[key], dtype=torch.float32).view(-1, 1, 1) for key in ("mean", "std"))
    image = ((pattern(channels, *size) - mean) / std)[None]
    was_training = backbone.training
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        maps = backbone.eval().forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")
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
    """Draw the test image from integers alone, so that its bits are the same everywhere.

    Args:
        channels: Each has its own gradients, edges at every scale and texture.
        height: Pixels.
        width: Pixels.

    Returns:
        (channels, height, width), float32 in [0, 1].
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [((x * (c + 2)) ^ (y * 3) ^ ((x * y) >> (c % 3 + 3))) % 256 for c in range(channels)]
    return torch.stack(planes).to(torch.float32) / 255


def distance(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """The largest relative difference between the norms of corresponding stages."""
    return max(abs(float(now["norm"] / then["norm"]) - 1) for then, now in zip(expected, found, strict=True))


def difference(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> str | None:
    """Compare two results of `measure`.

    Returns:
        The first difference beyond TOLERANCE, or None. The norm's difference is relative to the norm, the mean's
        to the root mean square.
    """
    if [(each["stage"], each["shape"]) for each in expected] != [(each["stage"], each["shape"]) for each in found]:
        return "the names or shapes of the stages differ"
    for then, now in zip(expected, found, strict=True):
        scale = then["norm"] / math.sqrt(math.prod(then["shape"]))
        for key, unit in (("norm", then["norm"]), ("mean", scale)):
            if not abs(now[key] - then[key]) <= TOLERANCE * unit:
                return f"{then['stage']} has {key} {now[key]:.7g}, expected {then[key]:.7g}"
    return None
