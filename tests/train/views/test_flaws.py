"""Flaws: visible, local, of every kind, and a function of the random numbers alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from train.config import SpdConfig
from train.views import flaws
from train.views.flaws import FlawDraws, flaw, shapes
from train.views.perturb import UNIFORMS, perturb

CONFIG = SpdConfig(perturbation="flaws", patch_area=(0.0004, 0.05))


def photos(count: int, size: int = 64) -> Tensor:
    noise = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)


def draws(count: int, **fixed: float) -> FlawDraws:
    """Random numbers of one flaw per image, some of them the same for all images."""
    drawn = FlawDraws.from_uniforms(np.random.default_rng(0).random((count, 24)))
    return drawn._replace(**{name: np.full_like(getattr(drawn, name), value) for name, value in fixed.items()})


def test_nothing_but_what_alpha_covers_is_changed_visibly():
    images = photos(64)
    flawed, alpha = perturb(images, np.random.default_rng(0).random((64, UNIFORMS)), CONFIG)
    change = (flawed - images).abs().amax(1, keepdim=True)
    assert alpha.shape == (64, 1, 64, 64)
    assert change[alpha == 0].max() < 2 * flaws.VISIBLE  # of two flaws, each below the limit
    assert ((alpha > 0).flatten(1).any(1)).float().mean() > 0.9
    assert ((flawed >= 0) & (flawed <= 1)).all()
    assert (change > 0).float().mean() < 0.15


def test_alpha_leaves_out_what_nobody_could_see():
    images = photos(64)
    flawed, alpha = flaw(images, draws(64), CONFIG)
    change = (flawed - images).abs().amax(1, keepdim=True)
    assert change[alpha > 0].min() >= flaws.VISIBLE
    assert change[alpha == 0].max() < flaws.VISIBLE
    assert (change[alpha == 0] > 0).any()


def test_an_image_gets_the_same_flaws_in_any_batch():
    images, uniforms = photos(8), np.random.default_rng(0).random((8, UNIFORMS))
    together = perturb(images, uniforms, CONFIG)
    for i in range(8):
        for whole, alone in zip(together, perturb(images[i : i + 1], uniforms[i : i + 1], CONFIG), strict=True):
            torch.testing.assert_close(whole[i : i + 1], alone, rtol=0, atol=1e-6)


def test_areas_cover_the_range_that_was_asked_for():
    config = dataclasses.replace(CONFIG, patch_area=(0.01, 0.02))
    alpha = shapes(128, draws(400, centre=0.5, scratch=1.0, opacity=1.0), config)
    ellipse = 0.75  # on average, the short axis is three quarters of the long one
    assert alpha.mean().item() == pytest.approx(ellipse * 0.01 / math.log(2), rel=0.1)
    scratch = shapes(128, draws(400, centre=0.5, scratch=0.0, opacity=1.0), config)
    assert 0.004 < scratch.mean().item() < 0.02
    assert scratch.amax((1, 2, 3)).min() > 0.5


@pytest.mark.parametrize("angle", [0.0, 0.25, 0.5])
def test_a_straight_scratch_runs_along_its_angle(angle: float):
    one = draws(1, scratch=0.0, centre=0.5, outline=0.5, angle=angle, area=0.9)
    rows, columns = shapes(64, one, CONFIG)[0, 0].nonzero().float().sub(31.5).T
    spread = torch.linalg.eigh(torch.cov(torch.stack([columns, rows])))
    direction = spread.eigenvectors[:, 1]
    expected = torch.tensor([math.cos(angle * math.pi), math.sin(angle * math.pi)])
    assert abs(direction @ expected) > 0.99
    assert spread.eigenvalues[1] > 10 * spread.eigenvalues[0]


def test_every_filling_occurs_and_does_what_its_name_says():
    images, ends = photos(40), np.cumsum([0, *flaws._SHARES.values()])
    whole = torch.ones_like(images[:, :1])
    made = {
        kind: flaws._fillings(images, whole, draws(40, filling=ends[i] + 0.01), CONFIG)
        for i, kind in enumerate(flaws._SHARES)
    }
    assert ends[-1] == pytest.approx(1)
    assert torch.equal(made["flat"], made["flat"][:, :, :1, :1].expand_as(images))
    assert (made["flat"] - images.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3)).min() > 0.05
    shaded = made["shaded"] - images
    inside = (made["shaded"] > 0) & (made["shaded"] < 1)
    for image, change, kept in zip(images, shaded, inside, strict=True):
        for channel in range(3):
            if kept[channel].any():
                assert change[channel][kept[channel]].std() < 1e-5, image.shape
    assert (made["blurred"].var((2, 3)) < images.var((2, 3))).all()
    assert torch.equal(made["shifted"].flatten(2).sort().values, images.flatten(2).sort().values)
    for image, moved in zip(images, made["shifted"], strict=True):
        shifts = [(y, x) for y in range(-6, 7) for x in range(-6, 7) if torch.equal(image.roll((y, x), (1, 2)), moved)]
        assert len(shifts) == 1
        assert min(map(abs, shifts[0])) >= 2
    plain = dataclasses.replace(CONFIG, patch_jitter=(0.0,) * 4)
    foreign = flaws._fillings(images, whole, draws(40, filling=0.01, shift=0.25), plain)
    torch.testing.assert_close(foreign, images.mT.roll((16, 16), (2, 3)))


def test_most_flaws_are_neither_invisible_nor_of_one_kind():
    images = photos(300)
    changed = {}
    for scratch in (0.0, 1.0):
        _, alpha = flaw(images, draws(300, scratch=scratch), CONFIG)
        changed[scratch] = (alpha.flatten(1).amax(1) > 0).float().mean().item()
    assert min(changed.values()) > 0.7
