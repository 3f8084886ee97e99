"""Scale the maps that detectors read without changing what the network computes. Ours, not the paper's.

PatchCore concatenates its two maps unscaled, and PaDiM adds a fixed 0.01 to its covariances, so the magnitude
of each map matters, and pre-training leaves it to chance. If a stage ends without an activation, a factor on
its output can be undone in the layers that read it; with powers of two the outputs are bit-identical.
"""

import copy

import torch
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from spd_weights.errors import SpdError


@torch.no_grad()
def rescaled(backbone: nn.Module, stages: list[str], factors: tuple[float, ...]) -> nn.Module:
    """Return a copy whose maps are multiplied by the factors and whose other outputs are unchanged.

    Args:
        backbone: a timm model of inverted residual blocks with linear outputs, such as MobileNetV2 or
            EfficientNet.
        stages: names of its stages, `blocks.<i>`, as in timm's `feature_info`.
        factors: one factor > 0 per stage.

    Raises:
        SpdError: the architecture is not supported, or the number of factors is wrong.
    """
    if len(factors) != len(stages) or min(factors) <= 0:
        raise SpdError(f"--adapt.scales {factors}: give {len(stages)} factors above 0, one per stage")
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
            raise SpdError(f"--adapt.scales: in {type(backbone).__name__}, {name} passes its input through unscaled")
        for block in stage:
            block.bn3.weight *= factor
            block.bn3.bias *= factor
        for reader in (*stage[1:], following[0][0]):
            reader.conv_pw.weight /= factor
    return backbone
