"""Golden features: a backbone's response to a fixed test image, so that anyone can check an installation.

A digest proves that the bytes are right. Golden features prove that this installation computes the same
features from them as the one that exported them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Our choice: float32 sums in another order (threads, instruction sets, versions of torch) differ by 1e-6 to 1e-5.
TOLERANCE = 1e-4
NOISE = 2  # our choice: grey levels of 255, about the noise of a camera in good light


def measure(backbone: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure the feature maps of the test image, in float32 on the CPU, without dropout.

    Args:
        backbone: A timm model without classifier, on the CPU.
        config: The content of config.json; it gives size, channels, mean and std.

    Returns:
        One JSON-ready entry per stage: `stage` (its name), `shape` (C, H, W), and the map's `mean` and Euclidean
        `norm`.
    """
    return [
        {
            "stage": name,
            "shape": list(feature_map.shape[1:]),
            "mean": feature_map.double().mean().item(),
            "norm": feature_map.double().norm().item(),
        }
        for name, feature_map in _stages(backbone, config, pattern(*_size(config))[None])
    ]


def health(backbone: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure how little the features of an image change with camera noise.

    The test image is compared with a copy that differs by at most NOISE grey levels per pixel. If their features point
    in different directions, two images of sound parts look different to a detector, too.

    Args:
        backbone: A timm model without classifier, on the CPU.
        config: The content of config.json.

    Returns:
        One JSON-ready entry per stage: `stage`, `rms` (the root mean square of its features) and `cosine` (of the two
        images' feature vectors, averaged over positions; 1 is identical).
    """
    image = pattern(*_size(config))
    y, x = torch.meshgrid(*map(torch.arange, image.shape[1:]), indexing="ij")
    noise = ((x * 7 + y * 13 + (x * y) % 11) % (2 * NOISE + 1) - NOISE) / 255
    pair = torch.stack([image, (image + noise).clamp(0, 1)])
    return [
        {
            "stage": name,
            "rms": feature_map[:1].double().square().mean().sqrt().item(),
            "cosine": torch.cosine_similarity(feature_map[0].double(), feature_map[1].double(), dim=0).mean().item(),
        }
        for name, feature_map in _stages(backbone, config, pair)
    ]


def _size(config: Mapping[str, Any]) -> tuple[int, int, int]:
    channels, height, width = config["pretrained_cfg"]["input_size"]
    return (channels, height, width) if config["pretrained_cfg"]["fixed_input_size"] else (channels, 64, 64)


def _stages(backbone: Any, config: Mapping[str, Any], images: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Names and feature maps (B, C, H, W) of all stages, for images (B, C, H, W) in [0, 1]."""
    mean, std = (
        torch.tensor(config["pretrained_cfg"][key], dtype=torch.float32).view(-1, 1, 1) for key in ("mean", "std")
    )
    was_training = backbone.training
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        maps = backbone.eval().forward_intermediates((images - mean) / std, intermediates_only=True, output_fmt="NCHW")
    backbone.train(was_training)
    return list(zip([stage["module"] for stage in backbone.feature_info], maps, strict=True))


def pattern(channels: int, height: int, width: int) -> torch.Tensor:
    """Draw the test image from integers alone, so that its bits are the same everywhere.

    Args:
        channels: How many. Each has gradients, edges at every scale and texture of its own.
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
