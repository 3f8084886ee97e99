"""Which feature maps of a backbone stand for which stride."""

from typing import Any

REDUCTIONS = (4, 8, 16, 32)
"""Strides of the usual four stages: layer1 to layer4 of a ResNet."""

DETECTOR_REDUCTIONS = REDUCTIONS[:3]
"""Strides of the maps that PaDiM and PatchCore read."""


def stage_indices(backbone: Any) -> dict[int, int]:
    """Find the feature map for each stride in `REDUCTIONS`.

    A stride's map is the last one of that stride, otherwise the last one of the next finer stride. Plain vision
    transformers have one stride throughout. For them it is the block at a quarter, half, three quarters and the
    end of the depth (our choice: the same relative depths as a ResNet's four stages).

    Args:
        backbone: A timm model with `feature_info`.

    Returns:
        Stride to index into `feature_info`, which is also the index that `forward_intermediates` takes.
    """
    strides = [stage["reduction"] for stage in backbone.feature_info]
    depth = len(strides)
    if len(set(strides)) == 1 and depth >= 4:
        return {r: (quarter + 1) * depth // 4 - 1 for quarter, r in enumerate(REDUCTIONS)}
    return {r: max((i for i, stride in enumerate(strides) if stride <= r), default=0) for r in REDUCTIONS}
