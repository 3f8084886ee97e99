"""Feature maps of a frozen backbone."""

import torch

from eval.backbone.features import FEATURE_PRECISIONS, Extractor


def test_bfloat16_features_are_nearly_the_same():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    single, half = (
        Extractor("random:test_resnet", 64, precision=precision)(images) for precision in FEATURE_PRECISIONS
    )
    for a, b in zip(single, half, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.03 * a.norm()
