"""Synthetic defects: local, visible, soft at the edge, and the same on every machine."""

import numpy as np
import pytest
import torch

from eval.inspection.adaptation.defects import KINDS, synthetic_defects


def photographs(count: int = 14, size: int = 64) -> torch.Tensor:
    """Textured images: smooth colours with grain."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(40, 215, (count, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (smooth + torch.from_numpy(rng.normal(0, 12, smooth.shape))).clamp(0, 255).byte()


def change(images: torch.Tensor, *kinds: str) -> torch.Tensor:
    """The largest change that defects make among the channels of each pixel, [B, S, S] in [0, 1]."""
    return (synthetic_defects(images, kinds, 0, 0).float() - images.float()).abs().amax(1) / 255


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_a_small_region(kind):
    images = photographs()
    before = images.clone()
    changed = change(images, kind)
    assert torch.equal(images, before)
    touched = (changed > 0).float().mean((1, 2))
    assert 0 < touched.max() < 0.25
    assert (changed.amax((1, 2)) > 0.05).float().mean() > 0.7


def test_result_depends_on_seed_and_step_only():
    images = photographs()
    first = synthetic_defects(images, list(KINDS), 3, 5)
    torch.manual_seed(99)
    np.random.seed(99)
    again = synthetic_defects(images, list(KINDS), 3, 5)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    for seed, step in ((3, 6), (4, 5)):
        assert not torch.equal(first, synthetic_defects(images, list(KINDS), seed, step))


def test_kinds_are_equally_frequent():
    """On flat images blur and displacement show nothing; of these kinds two in three are invisible."""
    flat = torch.full((30, 3, 64, 64), 90, dtype=torch.uint8)
    assert int((change(flat, "blurred", "warped", "spotted").amax((1, 2)) > 0).sum()) == 10


def test_edges_are_soft():
    flat = torch.full((40, 3, 96, 96), 128, dtype=torch.uint8)
    changed = change(flat, "stained")
    visible = changed[changed.amax((1, 2)) > 0.1]
    peak = visible.amax((1, 2), keepdim=True)
    between = ((visible > 0.1 * peak) & (visible < 0.9 * peak)).float().sum((1, 2))
    assert len(visible) > 10
    assert (between >= 3).all()


@pytest.mark.parametrize("kind", ["spotted", "scratched", "missing"])
def test_sizes_follow_the_image(kind):
    def area(size: int) -> float:
        return float((change(photographs(60, size), kind) > 0.05).float().mean())

    assert area(192) == pytest.approx(area(96), rel=0.35)
