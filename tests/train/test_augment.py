"""Batched augmentations against torchvision's per-sample reference."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from train import augment


def images(batch: int = 6, size: int = 33, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


REFERENCE = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def test_color_jitter_equals_torchvision_sample_by_sample():
    uniforms = np.random.default_rng(0).random((40, 5))
    factors, order = augment.sample_jitter(uniforms, (0.8, 0.8, 0.8, 0.2))
    batch = images(40)
    ours = augment.color_jitter(batch, factors, order)
    assert len({tuple(o) for o in order.tolist()}) > 12  # the orders do vary
    for image, factor, sequence, result in zip(batch, factors, order, ours, strict=True):
        for operation in sequence.tolist():
            image = REFERENCE[operation](image, factor[operation].item())
        torch.testing.assert_close(result, image, atol=2e-5, rtol=0)


def test_identity_factors_change_nothing():
    batch = images()
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(6, 4)
    assert torch.equal(augment.color_jitter(batch, factors, torch.arange(4).expand(6, 4)), batch)


def test_contrast_pivots_on_the_weighted_region():
    batch, weight = images(1, 16), torch.zeros(1, 1, 16, 16)
    weight[..., 2:6, 3:9] = 1
    jittered = augment.color_jitter(batch, torch.tensor([[1.0, 0.5, 1.0, 0.0]]), torch.arange(4)[None], weight)
    patch = batch[..., 2:6, 3:9]
    torch.testing.assert_close(jittered[..., 2:6, 3:9], reference.adjust_contrast(patch, 0.5), atol=1e-5, rtol=0)


def test_grayscale_equals_torchvision():
    batch = images()
    chosen = torch.tensor([True, False, True, True, False, False])
    expected = torch.where(chosen[:, None, None, None], reference.rgb_to_grayscale(batch, 3), batch)
    torch.testing.assert_close(augment.grayscale(batch, chosen), expected, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(32, 80), sigma=st.floats(0.1, 4.0))
def test_blur_equals_torchvision(size: int, sigma: float):
    batch = images(2, size)
    matrix = augment.blur_matrix(torch.full((2,), sigma), size)
    expected = reference.gaussian_blur(batch, [2 * min(int(6 * sigma) + 1, size - 1) + 1] * 2, [sigma, sigma])
    torch.testing.assert_close(augment.separable(batch, matrix, matrix), expected, atol=1e-4, rtol=0)


def test_blur_of_zero_sigma_is_the_identity():
    matrix = augment.blur_matrix(torch.tensor([0.0, 1.0]), 32)
    assert torch.equal(matrix[0], torch.eye(32))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), size=st.integers(32, 64))
def test_crop_equals_interpolate_on_the_cut_image(data: st.DataObject, size: int):
    height, width = (data.draw(st.integers(size // 2, size)) for _ in range(2))
    top, left = data.draw(st.integers(0, size - height)), data.draw(st.integers(0, size - width))
    batch = images(1, size)
    rows = augment.crop_matrix(torch.tensor([float(top)]), torch.tensor([float(height)]), size)
    columns = augment.crop_matrix(torch.tensor([float(left)]), torch.tensor([float(width)]), size)
    cut = batch[:, :, top : top + height, left : left + width]
    expected = interpolate(cut, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(augment.separable(batch, rows, columns), expected, atol=1e-4, rtol=0)


def test_flip_reverses_the_output():
    batch = images(2)
    eye = torch.eye(33).expand(2, 33, 33)
    flipped = augment.separable(batch, eye, augment.flip(eye, torch.tensor([True, False])))
    assert torch.equal(flipped, torch.stack([batch[0].flip(-1), batch[1]]))


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5])
def test_jitter_factors_are_uniform_in_their_range(strength: float):
    uniforms = np.random.default_rng(1).random((4000, 5))
    factors, _ = augment.sample_jitter(uniforms, (strength, strength, strength, strength / 5))
    for column, (centre, limit) in enumerate([(1, strength)] * 3 + [(0, strength / 5)]):
        values = factors[:, column]
        assert values.min() >= centre - limit - 1e-6
        assert values.max() <= centre + limit + 1e-6
        assert values.mean().item() == pytest.approx(centre, abs=0.02)
        assert values.std().item() == pytest.approx(limit / 3**0.5, abs=0.02)
