"""The operations of each recipe's views, observed on pixels over 2,000 draws, against the official values.

operations.json holds the values. Each operation is isolated: the others get probability 0.
"""

import colorsys
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from train.config import AugmentConfig, DataConfig, SpdConfig
from train.data.loader import Batch, Crops
from train.recipes import RECIPES, Config
from train.views.views import ViewMaker

TABLE = json.loads(Path(__file__).with_name("operations.json").read_text())
DRAWS, SIZE = 2000, 32
STRENGTHS = ("brightness", "contrast", "saturation", "hue")


def make_config(recipe: str, size: int = SIZE, **changes: object) -> Config:
    return RECIPES[recipe](data=DataConfig(train="unused", image_size=size), out=Path("unused"), seed=3, **changes)


def make_views(config: Config, image: Tensor, draws: int = DRAWS) -> dict[str, Tensor]:
    """The views of `draws` copies of one uint8 crop (3, S, S)."""
    crops = image.expand(draws, 1 if type(config).__name__ in ("Supervised", "Adapt") else 2, *image.shape)
    batch = Batch([crops.contiguous()], None, np.arange(draws), 1, {})
    return ViewMaker(config, (0.0,) * 3, (1.0,) * 3, torch.device("cpu")).unnormalized(batch)


def plain(**changes: object) -> AugmentConfig:
    return AugmentConfig(**{"jitter_probability": 0.0, "gray_probability": 0.0, "blur_probability": 0.0, **changes})


def still(config: SpdConfig, **changes: object) -> SpdConfig:
    """Weak views without any operation but those in `changes`."""
    off = {"weak_flip_probability": 0.0, "weak_blur_probability": 0.0, "weak_jitter_probability": 0.0}
    uncropped = {"weak_crop_area": (1.0, 1.0), "weak_crop_aspect": (1.0, 1.0)}
    return dataclasses.replace(config, **{"weight": 0.1, **off, **uncropped, **changes})


def isolated(recipe: str, kind: str, image: Tensor, *fields: str, **changes: object) -> Tensor:
    """Views that only undergo the operation with these fields, which keep the recipe's values unless changed."""
    config = make_config(recipe)
    group, names = (config.augment, "") if kind == "strong" else (config.spd, "weak_")
    kept = {names + field: changes.get(field, getattr(group, names + field)) for field in fields}
    strong = kind == "strong"
    augment, spd = (plain(**kept), still(config.spd, weight=0)) if strong else (plain(), still(config.spd, **kept))
    object.__setattr__(config, "augment", augment)  # replace() would refuse weak crops that adapt never makes
    object.__setattr__(config, "spd", spd)
    return make_views(config, image)["anchor" if strong else "unperturbed"]


def close(share: float, probability: float) -> bool:
    """Within four standard deviations."""
    return abs(share - probability) <= 4 * (probability * (1 - probability) / DRAWS) ** 0.5


def solid(red: int, green: int, blue: int) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[:, None, None].repeat(1, SIZE, SIZE)


WEAK = {"simsiam": TABLE["weak"]["pretraining"], "adapt": TABLE["weak"]["adapt"]}
EACH = [
    (kind, recipe, table[recipe]) for kind, table in (("strong", TABLE["strong"]), ("weak", WEAK)) for recipe in table
]


@pytest.mark.parametrize(("kind", "recipe", "expected"), EACH)
def test_share_and_strength_of_the_colour_jitter(kind: str, recipe: str, expected: dict[str, Any]):
    half_gray = solid(100, 100, 100)
    half_gray[:, :, : SIZE // 2] = 60
    observe = {  # an image, and the factor that its jittered copy reveals
        "brightness": (solid(60, 60, 60), lambda view: view[:, 0, 0, 0] / (60 / 255)),
        "contrast": (half_gray, lambda view: (view[:, 0, 0, -1] - view[:, 0, 0, 0]) / (40 / 255)),
        "saturation": (solid(120, 100, 90), lambda view: (view[:, 0, 0, 0] - view[:, 2, 0, 0]) / (30 / 255)),
        "hue": (solid(180, 80, 80), lambda view: torch.tensor([hue(pixel) for pixel in view[:, :, 0, 0]])),
    }
    config = make_config(recipe)
    strengths = config.augment.jitter if kind == "strong" else config.spd.weak_jitter
    for position, name in enumerate(STRENGTHS):
        image, factor = observe[name]
        only = tuple(strength if i == position else 0.0 for i, strength in enumerate(strengths))
        factors = factor(isolated(recipe, kind, image, "jitter", "jitter_probability", jitter=only))
        changed = (factors - (0 if name == "hue" else 1)).abs() > 1e-5
        assert close(changed.float().mean().item(), expected["jitter"])
        if expected["jitter"]:
            low, high = expected[name]
            assert [factors.min().item(), factors.max().item()] == pytest.approx([low, high], abs=0.01 * (high - low))


def hue(pixel: Tensor) -> float:
    value = colorsys.rgb_to_hsv(*pixel.tolist())[0]
    return value - 1 if value > 0.5 else value


@pytest.mark.parametrize("recipe", TABLE["strong"])
def test_share_of_grey_views(recipe: str):
    view = isolated(recipe, "strong", solid(200, 60, 30), "gray_probability")
    gray = (view[:, 0] == view[:, 1]).all((1, 2))
    assert close(gray.float().mean().item(), TABLE["strong"][recipe]["gray"])


@pytest.mark.parametrize(("kind", "recipe", "expected"), EACH)
def test_share_and_strength_of_the_blur(kind: str, recipe: str, expected: dict[str, Any]):
    impulse = solid(0, 0, 0)
    impulse[:, SIZE // 2, SIZE // 2] = 255
    wide = tuple(sigma * 224 / SIZE for sigma in (0.4, 0.6))  # so that no blur is too narrow to be seen
    view = isolated(recipe, kind, impulse, "blur_sigma", "blur_probability", blur_sigma=wide)
    assert close((view[:, 0, SIZE // 2, SIZE // 2] < 0.999).float().mean().item(), expected["blur"])
    if expected["blur"]:
        low, high = getattr(*{"strong": (make_config(recipe).augment, "blur_sigma"),
                              "weak": (make_config(recipe).spd, "weak_blur_sigma")}[kind])  # fmt: skip
        assert high == expected["blur_sigma"]
        larger = (low * 7, high * 7)  # 32 px are a seventh of 224 px
        view = isolated(recipe, kind, impulse, "blur_sigma", "blur_probability", blur_sigma=larger)
        middle, beside = view[:, 0, SIZE // 2, SIZE // 2 - 1 : SIZE // 2 + 1].unbind(1)[::-1]
        sigma = (0.5 / (middle / beside.clamp(min=1e-30)).log()).sqrt()
        assert sigma[middle < 0.999].max().item() == pytest.approx(high, rel=0.02)


def position_image(side: int) -> np.ndarray:
    """Red grows by 255 / side per pixel from left to right, green from top to bottom."""
    ramp = np.broadcast_to(np.linspace(0, 255 * (side - 1) / side, side).round().astype(np.uint8), (side, side))
    return np.stack([ramp, ramp.T, np.zeros_like(ramp)], -1)


def observe_crops(views: Tensor) -> tuple[Tensor, Tensor]:
    """Area as a share of the image, and whether it was flipped: views (B, 3, S, S) of `position_image`, in [0, 1]."""
    size = views.shape[-1]
    width = (views[:, 0, :, size - 2] - views[:, 0, :, 1]).mean(1) * size / (size - 3)
    height = (views[:, 1, size - 2, :] - views[:, 1, 1, :]).mean(1) * size / (size - 3)
    return width.abs() * height, width < 0


@pytest.mark.parametrize("recipe", TABLE["strong"])
def test_strong_crops_and_flips(recipe: str):
    expected, file = TABLE["strong"][recipe], io.BytesIO()
    Image.fromarray(position_image(64)).save(file, "PNG")
    rows = {"image": [{"bytes": file.getvalue(), "path": None}] * DRAWS}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(decode=False)}))
    crops = Crops(table, make_config(recipe)).__getitems__([(0, index) for index in range(DRAWS)]).crops
    for view in crops.float().div(255).unbind(1):
        area, flipped = observe_crops(view)
        assert [area.min().item(), area.max().item()] == pytest.approx(expected["crop_area"], abs=0.03)
        assert close(flipped.float().mean().item(), expected["flip"])


@pytest.mark.parametrize("recipe", WEAK)
def test_weak_crops_and_flips(recipe: str):
    expected = WEAK[recipe]
    image = torch.from_numpy(position_image(SIZE)).permute(2, 0, 1)
    area, flipped = observe_crops(isolated(recipe, "weak", image, "crop_area", "crop_aspect", "flip_probability"))
    whole = observe_crops(image[None].float() / 255)[0]
    assert [*(area.aminmax()[i].item() / whole.item() for i in range(2))] == pytest.approx(
        expected["crop_area"], abs=0.02
    )
    assert close(flipped.float().mean().item(), expected["flip"])


def test_all_pretraining_recipes_have_the_same_weak_views():
    """The paper uses the same settings for all of them (§4), so one row of the table serves all."""
    configs = [make_config(recipe).spd for recipe in ("simsiam", "moco", "simclr", "supervised")]
    assert all(config == configs[0] for config in configs)


def test_positive_and_negative_have_independent_weak_draws():
    image = torch.from_numpy(position_image(SIZE)).permute(2, 0, 1)
    views = make_views(make_config("simsiam", augment=plain()), image)
    (area, flipped), (other_area, other_flipped) = (observe_crops(views[name]) for name in ("positive", "unperturbed"))
    assert close((flipped == other_flipped).float().mean().item(), 0.5)
    assert abs(torch.corrcoef(torch.stack([area, other_area]))[0, 1]) < 0.1


@pytest.mark.parametrize("symmetric", [False, True])
def test_positive_and_negative_are_made_from_the_strong_views(symmetric: bool):
    config = make_config("simsiam")
    config = dataclasses.replace(config, spd=still(config.spd, symmetric=symmetric))
    views = make_views(config, torch.from_numpy(position_image(SIZE)).permute(2, 0, 1), draws=50)
    anchors = torch.cat([views["anchor"], views["second"]]) if symmetric else views["anchor"]
    assert not torch.equal(anchors[0], anchors[1])
    torch.testing.assert_close(views["positive"], anchors, atol=1e-5, rtol=0)
    torch.testing.assert_close(views["unperturbed"], anchors, atol=1e-5, rtol=0)


def test_the_two_strong_views_have_independent_draws():
    config = make_config("simsiam", augment=plain(jitter=(0.4, 0.0, 0.0, 0.0), jitter_probability=1.0))
    views = make_views(config, solid(60, 60, 60))
    brightness = torch.stack([views[name].mean((1, 2, 3)) for name in ("anchor", "second")])
    assert abs(torch.corrcoef(brightness)[0, 1]) < 0.1


def test_the_negative_differs_from_its_weak_view_where_alpha_says_so():
    views = make_views(make_config("simsiam"), torch.from_numpy(position_image(SIZE)).permute(2, 0, 1), draws=50)
    change = (views["negative"] - views["unperturbed"]).abs().amax(1, keepdim=True)
    assert (change.amax((1, 2, 3)) >= 2 / 255).all()
    assert (change[views["alpha"] == 0] == 0).all()
