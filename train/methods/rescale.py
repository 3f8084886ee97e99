"""Rescaling the maps that detectors read, without changing what the network computes. Ours, not the paper's.

PatchCore concatenates its two maps as they come, and PaDiM adds a fixed 0.01 to its covariances, so the size
of each map counts, and pre-training leaves it to chance. Where a stage ends without an activation, a factor
on its output is undone in the layers that read it: by powers of two, to the bit.
"""

import copy

import torch
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from spd_weights.errors import SpdError


@torch.no_grad()
def rescaled(backbone: nn.Module, stages: list[str], factors: tuple[float, ...]) -> nn.Module:
    """A copy whose maps are multiplied by the factors, and whose other outputs are the same.

    Args:
        backbone: a timm model of inverted residual blocks with linear outputs (MobileNetV2, EfficientNet and
            the like).
        stages: names of its stages, `blocks.<i>`, as in timm's `feature_info`.
        factors: for each stage a factor > 0.

    Raises:
        SpdError: the architecture is another, or there are not as many factors as stages.
    """
    if len(factors) != len(stages) or min(factors) <= 0:
        raise SpdError(f"--adapt.scales {factors}: give {len(stages)} factors above 0, one a stage")
    backbone = copy.deepcopy(backbone)
    for name, factor in zip(stages, factors, strict=True):
        if factor == 1:
            continue
        group, _, index = name.partition(".")
        following = getattr(backbone, group)[int(index) + 1 :] if group == "blocks" and index.isdigit() else []
        stage = backbone.get_submodule(name)
        if not following or not all(isinstance(block, InvertedResidual) for block in [*stage, following[0][0]]):
            raise SpdError(f"--adapt.scales: {type(backbone).__name__} has no stages that end without an activation")
        if stage[0].has_skip or following[0][0].has_skip or any(block.conv_s2d for block in [*stage, following[0][0]]):
            raise SpdError(f"--adapt.scales: in {type(backbone).__name__}, {name} passes its input on unscaled")
        for block in stage:
            block.bn3.weight *= factor
            block.bn3.bias *= factor
        for reader in (*stage[1:], following[0][0]):
            reader.conv_pw.weight /= factor
    return backbone
