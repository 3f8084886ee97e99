"""The views of a batch: which draws make them, pinned values, and their names."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.config import DataConfig
from train.data.decode import CropDraws
from train.data.loader import Batch
from train.recipes import RECIPES, Adapt, Config, Supervised
from train.views.perturb import PatchDraws, ScarDraws
from train.views.randomness import uniforms
from train.views.views import StrongDraws, ViewMaker, WeakDraws

PINNED = json.loads(Path(__file__).with_name("pinned_views.json").read_text())


def make_config(recipe: str, size: int, **changes: object) -> Config:
    return RECIPES[recipe](data=DataConfig(train="unused", image_size=size), out=Path("unused"), seed=5, **changes)


def make_batch(config: Config, count: int) -> Batch:
    """Smooth random crops."""
    views, size = 1 if isinstance(config, (Supervised, Adapt)) else 2, config.data.image_size
    small = torch.rand(count * views, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    crops = (large * 255).round().byte().view(count, views, 3, size, size)
    return Batch([crops], torch.arange(count), np.arange(count) * 7 + 3, 2, {})


def make_views(config: Config, count: int) -> dict[str, torch.Tensor]:
    maker = ViewMaker(config, (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))
    return maker.unnormalized(make_batch(config, count))


@pytest.mark.parametrize("recipe", PINNED)
def test_views_have_pinned_values(recipe: str):
    """Mean and standard deviation of each view of six images. Changing them silently would change every run."""
    views = make_views(make_config(recipe, 64), 6)
    assert views.keys() == PINNED[recipe].keys()
    for name, view in views.items():
        found = torch.stack([view.mean((1, 2, 3)), view.std((1, 2, 3))], 1)
        torch.testing.assert_close(found, torch.tensor(PINNED[recipe][name]), atol=2e-5, rtol=0)


def test_names_of_draws_keep_their_columns():
    """A draw that moved to another column would change every run, too."""
    column = np.arange(23.0)[None]
    strong, weak = StrongDraws.from_uniforms(column[:, :9]), WeakDraws.from_uniforms(column[:, :13])
    assert [*strong.jitter, *strong[1:]] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [*weak[:7], *weak.jitter, weak.jittered] == [*range(13)]
    patch, scar = PatchDraws.from_uniforms(column[:, :20]), ScarDraws.from_uniforms(column[:, :20])
    assert [*patch[:4], *patch.places.flat, *patch.jitter] == [*range(12), *range(15, 20)]
    assert [*scar[:3], *scar.source.flat, *scar.target.flat, *scar.jitter] == [*range(7), *range(15, 20)]
    crop = CropDraws.from_uniforms(column)
    assert [*crop.areas.flat, *crop.aspects.flat] == [*range(0, 20, 2), *range(1, 20, 2)]
    assert [*crop[2:]] == [20, 21, 22]


@pytest.mark.parametrize("size", [32, 64, 112, 224])
def test_weak_blur_is_visible_at_any_size(size: int):
    """It was skipped at 96 px and below, because sigma was scaled to less than a fifth of a pixel there."""
    count, maker = 400, ViewMaker(make_config("adapt", size), (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))
    maker.config = dataclasses.replace(
        maker.config, spd=dataclasses.replace(maker.config.spd, weak_jitter_probability=0.0)
    )
    checkers = (torch.arange(size)[:, None] + torch.arange(size)) % 2
    sharp = checkers.float().expand(10, 3, size, size)
    numbers = uniforms(0, 0, np.arange(count), "weak", 13)
    blurred = 0
    for part in np.split(numbers, count // 10):
        change = (maker.weak(sharp, WeakDraws.from_uniforms(part)) - sharp).abs().amax((1, 2, 3))
        blurred += int((change >= 1 / 255).sum())
    probability = maker.config.spd.weak_blur_probability
    assert blurred / count == pytest.approx(probability, abs=3 * (probability * (1 - probability) / count) ** 0.5)
