"""Batched augmentations against torchvision's per-sample reference."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from train.views import augment


def images(batch: int = 6, size: int = 33, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def jitter_draws(batch: int, seed: int) -> augment.JitterDraws:
    return augment.JitterDraws(*np.random.default_rng(seed).random((batch, 5)).T)


SIZES = (33, 100)
REFERENCE = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


@pytest.mark.parametrize("size", SIZES)
def test_color_jitter_equals_torchvision_sample_by_sample(size: int):
    factors, order = augment.sample_jitter(jitter_draws(40, 0), (0.8, 0.8, 0.8, 0.2))
    factors[::7] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    batch = images(40, size)
    ours = augment.color_jitter_(batch.clone(), factors, order)
    assert len(set(order.tolist())) > 12  # the orders do vary
    for image, factor, number, result in zip(batch, factors, order, ours, strict=True):
        for operation in augment.JITTER_ORDERS[number]:
            image = REFERENCE[operation](image, factor[operation].item())
        torch.testing.assert_close(result, image, atol=2e-5, rtol=0)


@settings(max_examples=50)
@given(shift=st.floats(-0.5, 0.5), seed=st.integers(0, 99), size=st.sampled_from((9, 100)))
def test_any_turn_of_the_hue_equals_torchvisions_way_through_angles(shift: float, seed: int, size: int):
    batch = (images(2, size, seed) * 4).round() / 4  # with ties between channels, and greys
    factors = torch.tensor([[1.0, 1.0, 1.0, shift]]).expand(2, 4)
    ours = augment.color_jitter_(batch.clone(), factors, np.zeros(2, np.int64))
    torch.testing.assert_close(ours, reference.adjust_hue(batch, shift), atol=1e-5, rtol=0)


def test_identity_factors_change_nothing():
    batch = images()
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(6, 4)
    assert torch.equal(augment.color_jitter_(batch.clone(), factors, np.arange(6)), batch)


@pytest.mark.parametrize("size", SIZES)
def test_contrast_pivots_on_the_weighted_region(size: int):
    batch, weight = images(1, size), torch.zeros(1, 1, size, size)
    weight[..., 2:6, 3:9] = 1
    jittered = augment.color_jitter_(batch.clone(), torch.tensor([[1.0, 0.5, 1.0, 0.0]]), np.zeros(1, np.int64), weight)
    patch = batch[..., 2:6, 3:9]
    torch.testing.assert_close(jittered[..., 2:6, 3:9], reference.adjust_contrast(patch, 0.5), atol=1e-5, rtol=0)


def test_grayscale_equals_torchvision():
    batch = images()
    chosen = torch.tensor([True, False, True, True, False, False])
    expected = torch.where(chosen[:, None, None, None], reference.rgb_to_grayscale(batch, 3), batch)
    torch.testing.assert_close(augment.grayscale_(batch.clone(), chosen), expected, atol=1e-4, rtol=0)


@settings(max_examples=25)
@given(size=st.integers(32, 160), sigmas=st.lists(st.floats(0.1, 4.0), min_size=2, max_size=2))
def test_blur_equals_torchvision(size: int, sigmas: list[float]):
    batch = images(2, size)
    ours = augment.blur_(batch.clone(), torch.tensor(sigmas))
    for image, sigma, result in zip(batch, sigmas, ours, strict=True):
        expected = reference.gaussian_blur(image, [2 * min(20, size - 1) + 1] * 2, [sigma, sigma])
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 33, 130])
def test_a_blurred_image_does_not_depend_on_the_rest_of_the_batch(size: int):
    batch, sigma = images(40, size), torch.linspace(0.1, 3.0, 40).flip(0)
    sigma[5] = 0
    blurred = augment.blur_(batch.clone(), sigma)
    for i in range(0, 40, 3):
        assert torch.equal(augment.blur_(batch[i : i + 1].clone(), sigma[i : i + 1])[0], blurred[i])


@pytest.mark.parametrize("size", SIZES)
def test_blur_of_zero_sigma_changes_nothing(size: int):
    batch = images(3, size)
    ours = augment.blur_(batch.clone(), torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(ours[::2], batch[::2])
    assert not torch.equal(ours[1], batch[1])


@settings(max_examples=25)
@given(data=st.data(), size=st.integers(32, 64), flipped=st.booleans())
def test_crop_equals_interpolate_on_the_cut_image(data: st.DataObject, size: int, flipped: bool):
    height, width = (data.draw(st.integers(size // 2, size)) for _ in range(2))
    top, left = data.draw(st.integers(0, size - height)), data.draw(st.integers(0, size - width))
    batch = images(1, size)
    ours = augment.crop(batch, torch.tensor([[top, left, height, width]]).float(), torch.tensor([flipped]))
    cut = batch[:, :, top : top + height, left : left + width]
    expected = interpolate(cut, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, expected.flip(-1) if flipped else expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [32, 1024])
def test_channels_last_images_give_the_same(size: int):
    batch = images(2, size)
    factors, order = augment.sample_jitter(jitter_draws(2, 3), (0.4, 0.4, 0.4, 0.1))
    boxes, flipped = torch.tensor([[0.0, 3.0, size - 4, size - 3]]).expand(2, 4), torch.tensor([True, False])
    for operation in (
        lambda x: augment.color_jitter_(x.clone(), factors, order),
        lambda x: augment.blur_(x.clone(), torch.tensor([0.7, 1.9])),
        lambda x: augment.grayscale_(x.clone(), flipped),
        lambda x: augment.crop(x, boxes, flipped),
    ):
        last = operation(batch.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, operation(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5])
def test_jitter_factors_are_uniform_in_their_range(strength: float):
    factors, _ = augment.sample_jitter(jitter_draws(4000, 1), (strength, strength, strength, strength / 5))
    for column, (centre, limit) in enumerate([(1, strength)] * 3 + [(0, strength / 5)]):
        values = factors[:, column]
        assert values.min() >= centre - limit - 1e-6
        assert values.max() <= centre + limit + 1e-6
        assert values.mean().item() == pytest.approx(centre, abs=0.02)
        assert values.std().item() == pytest.approx(limit / 3**0.5, abs=0.02)
