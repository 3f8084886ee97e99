"""SmoothBlend: local, never a no-op, smooth, and without a halo."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from train.config import SpdConfig
from train.views import perturb

CONFIG = SpdConfig()
LITERAL = dataclasses.replace(CONFIG, perturbation="smoothblend_literal")
NO_JITTER = dataclasses.replace(CONFIG, patch_jitter=(0.0, 0.0, 0.0, 0.0))


def draw(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, perturb.UNIFORMS))


def sample_boxes(uniforms: np.ndarray, size: int, config: SpdConfig) -> perturb.Boxes:
    return perturb.sample_boxes(perturb.PatchDraws.from_uniforms(uniforms), size, config)


def photos(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)


@settings(max_examples=25)
@given(size=st.integers(32, 200), seed=st.integers(0, 2**32 - 1))
def test_changes_are_under_alpha_and_there_is_always_one(size: int, seed: int):
    images = photos(3, size, seed)
    negative, alpha = perturb.perturb(images, draw(3, seed), CONFIG)
    assert negative.shape == images.shape
    assert alpha.shape == (3, 1, size, size)
    assert torch.equal(negative[(alpha == 0).expand_as(images)], images[(alpha == 0).expand_as(images)])
    assert ((negative >= 0) & (negative <= 1)).all()
    assert ((negative - images).abs().amax((1, 2, 3)) >= 2 / 255).all()


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_flat_image_is_changed_all_the_same(level: float):
    images = torch.full((8, 3, 48, 48), level)
    negative, _ = perturb.perturb(images, draw(8), CONFIG)
    assert ((negative - images).abs().amax((1, 2, 3)) >= 2 / 255).all()


def test_a_white_patch_in_a_dark_image_is_not_clipped_away():
    images = torch.zeros(1, 3, 64, 64)
    _, alpha = perturb.perturb(images, draw(1), NO_JITTER)
    images[(alpha > 0).expand_as(images)] = 1.0
    boxes = sample_boxes(draw(1), 64, NO_JITTER)
    y, x, h, w = (int(box) for box in (boxes.source_y, boxes.source_x, boxes.height, boxes.width))
    images[..., max(0, y - 9) : y + h + 9, max(0, x - 9) : x + w + 9] = 1.0  # source and target alike
    negative, _ = perturb.perturb(images, draw(1), NO_JITTER)
    assert (negative - images).abs().max() > 0.05


def test_the_pasted_core_is_the_jittered_source():
    images, uniforms = photos(20, 96), draw(20)
    negative, alpha = perturb.perturb(images, uniforms, NO_JITTER)
    boxes = sample_boxes(uniforms, 96, NO_JITTER)
    for i in range(20):
        b = {name: int(value[i]) for name, value in boxes._asdict().items()}
        core = alpha[i, 0, b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]]
        source = images[i, :, b["source_y"] : b["source_y"] + b["height"], b["source_x"] : b["source_x"] + b["width"]]
        target = images[i, :, b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]]
        pasted = negative[i, :, b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]]
        torch.testing.assert_close(pasted, core * source + (1 - core) * target, atol=1e-5, rtol=0)
        assert core.max() > 0.9


def test_alpha_equals_a_numerically_blurred_box():
    start, length, size, fine = 20, 9, 64, 51
    for sigma in (0.6, 1.5, 4.0):
        box = np.zeros(size * fine)
        box[start * fine : (start + length) * fine] = 1
        blurred = gaussian_filter1d(box, sigma * fine, mode="constant", truncate=6)
        at_pixel_centres = blurred.reshape(size, fine)[:, fine // 2]
        pixel = torch.arange(size)[None]
        ours = perturb._blurred_span(pixel, torch.tensor([start]), torch.tensor([length]), torch.tensor([sigma]))[0]
        np.testing.assert_allclose(ours, at_pixel_centres, atol=1e-3)


def test_edges_are_smoother_than_a_pasted_box():
    uniforms = draw(64)
    _, alpha = perturb.perturb(photos(64, 128), uniforms, CONFIG)
    steps = torch.maximum(alpha.diff(dim=-1).abs().amax((1, 2, 3)), alpha.diff(dim=-2).abs().amax((1, 2, 3)))
    boxes = sample_boxes(uniforms, 128, CONFIG)
    sigma = (CONFIG.alpha_sigma * torch.minimum(boxes.height, boxes.width)).clamp(min=0.5)
    # A blurred step of height 1 is no steeper than 1 / (sigma sqrt(2 pi)); a pasted box's step is 1.
    assert (steps <= 1 / (sigma * (2 * np.pi) ** 0.5) + 1e-4).all()
    assert steps.mean() < 0.5


def test_no_halo_where_the_patch_equals_its_surroundings_but_the_literal_form_has_one():
    flat = torch.full((16, 3, 64, 64), 0.5)
    images = flat.clone()
    images[:, :, :2] = 1.0  # elsewhere, so that the no-op guard is not what is tested
    uniforms = draw(16, 3)
    boxes = sample_boxes(uniforms, 64, NO_JITTER)
    far = ((boxes.source_y > 12) & (boxes.y > 12)).nonzero()[:, 0]
    assert len(far) > 5
    halo_free, alpha = perturb.perturb(images[far], uniforms[far], NO_JITTER)
    literal, _ = perturb.perturb(
        images[far], uniforms[far], dataclasses.replace(LITERAL, patch_jitter=NO_JITTER.patch_jitter)
    )
    # The guard's uniform brightness shift is the only change of the halo-free form.
    change = (halo_free - images[far]).abs()
    torch.testing.assert_close(change, (alpha * 0.1).expand_as(change), atol=1e-5, rtol=0)
    assert (images[far] - literal).amax() > 0.1  # the dark frame of the literal formula


def test_literal_form_follows_the_formula():
    images, uniforms = photos(4, 64), draw(4)
    negative, alpha = perturb.perturb(images, uniforms, dataclasses.replace(LITERAL, patch_jitter=(0, 0, 0, 0)))
    boxes = sample_boxes(uniforms, 64, LITERAL)
    for i in range(4):
        b = {name: int(value[i]) for name, value in boxes._asdict().items()}
        foreground = torch.zeros(3, 64, 64)
        foreground[:, b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]] = images[
            i, :, b["source_y"] : b["source_y"] + b["height"], b["source_x"] : b["source_x"] + b["width"]
        ]
        expected = (1 - alpha[i]) * images[i] + alpha[i] * foreground
        torch.testing.assert_close(negative[i], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 64, 224, 800])
def test_boxes_have_the_stated_areas_and_lie_inside(size: int):
    boxes = perturb.Boxes(*(value.double() for value in sample_boxes(draw(3000), size, CONFIG)))
    for y, x in ((boxes.y, boxes.x), (boxes.source_y, boxes.source_x)):
        assert (y >= 0).all()
        assert (x >= 0).all()
        assert (y + boxes.height <= size).all()
        assert (x + boxes.width <= size).all()
    area = boxes.height * boxes.width / size**2
    least = max(4 / size, 0.02) ** 2
    assert area.min() >= min(0.9 * CONFIG.patch_area[0], least)
    assert area.max() <= (1.2 if size >= 64 else 1.4) * max(CONFIG.patch_area[1], least)  # sides are whole pixels
    if size >= 224:  # log-uniform: the mean of the logarithm is the middle
        assert area.log().mean().item() == pytest.approx(np.log(CONFIG.patch_area).mean(), abs=0.1)
    overlap = (boxes.height - (boxes.y - boxes.source_y).abs()).clamp(min=0)
    overlap *= (boxes.width - (boxes.x - boxes.source_x).abs()).clamp(min=0)
    assert (overlap <= 0.5 * boxes.height * boxes.width).double().mean() > 0.999


def test_cutpaste_is_an_exact_copy_but_for_the_jitter():
    images, uniforms = photos(12, 96), draw(12)
    uniforms[:, 15:20] = 0.5  # the middle of every jitter range: no jitter
    negative, alpha = perturb.cutpaste(images, perturb.PatchDraws.from_uniforms(uniforms))
    area = alpha.mean((1, 2, 3))
    assert (alpha.unique() == torch.tensor([0.0, 1.0])).all()
    assert ((area > 0.015) & (area < 0.17)).all()
    boxes = sample_boxes(uniforms, 96, SpdConfig(patch_area=(0.02, 0.15)))
    for i in range(12):
        b = {name: int(value[i]) for name, value in boxes._asdict().items()}
        source = images[i, :, b["source_y"] : b["source_y"] + b["height"], b["source_x"] : b["source_x"] + b["width"]]
        pasted = negative[i, :, b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]]
        torch.testing.assert_close(pasted, source, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [48, 256])
def test_a_scar_is_a_thin_strip_wholly_inside(size: int):
    uniforms = draw(200)
    _, alpha = perturb.cutpaste_scar(photos(200, size), perturb.ScarDraws.from_uniforms(uniforms))
    length, width = 10 + 15 * uniforms[:, 1], 2 + 14 * uniforms[:, 0]
    expected = np.maximum(length * size / 256, 3) * np.maximum(width * size / 256, 1)
    found = alpha.sum((1, 2, 3)).numpy()
    assert abs(np.log(found / expected)).mean() < (0.1 if size == 256 else 0.35)  # a strip cut off would be smaller
    assert found.min() > 0


def test_a_scar_copies_pixels_when_it_is_not_turned():
    images, uniforms = photos(3, 256), draw(3)
    uniforms[:, 2] = 0.5  # no rotation
    uniforms[:, 15:20] = 0.5
    uniforms[:, 3:7] = 0.25  # source and target at the same place: nothing may change
    negative, alpha = perturb.cutpaste_scar(images, perturb.ScarDraws.from_uniforms(uniforms))
    assert alpha.sum() > 0
    torch.testing.assert_close(negative, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["cutpaste", "cutpaste_scar"])
def test_every_kind_changes_something_and_only_under_alpha(kind: str):
    images = photos(16, 64)
    negative, alpha = perturb.perturb(images, draw(16), dataclasses.replace(CONFIG, perturbation=kind))
    assert torch.equal(negative * (alpha == 0), images * (alpha == 0))
    assert ((negative - images).abs().amax((1, 2, 3)) >= 2 / 255).all()
