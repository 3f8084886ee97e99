"""Every recipe against official_recipes.json, whose values were read from the papers and their official code."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from spd_weights.errors import SpdError
from train.backbone import make_backbone
from train.config import Config, DataConfig, OptimConfig
from train.methods import build_method
from train.optim import learning_rate, make_optimizer, set_learning_rate
from train.recipes import RECIPES

OFFICIAL = json.loads(Path(__file__).with_name("official_recipes.json").read_text())
STEPS = 400  # per epoch


def recipe(name: str, **model: object) -> Config:
    config = RECIPES[name](data=DataConfig(train="photos", image_size=32), out=Path("out"))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, arch="resnet18", **model))


def method(name: str) -> nn.Module:
    return build_method(recipe(name), make_backbone(recipe(name)), classes=5)


def described(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"Linear {layer.in_features} {layer.out_features}" + (" bias" if layer.bias is not None else "")
    if isinstance(layer, nn.BatchNorm1d):
        shift = layer.affine and layer.bias.requires_grad
        return {(True, True): "BatchNorm", (True, False): "BatchNorm without shift"}.get(
            (layer.affine, shift), "BatchNorm without scale and shift"
        )
    return type(layer).__name__


@pytest.mark.parametrize("name", OFFICIAL)
def test_options_are_the_official_ones(name: str):
    config, official = recipe(name), OFFICIAL[name]
    for option in ("epochs", "batch_size", "momentum", "weight_decay"):
        assert getattr(config.optim, option) == official[option]
    for option in ("zero_init_residual", "sync_batch_norm"):
        assert getattr(config.model, option) == official[option]
    for option in {"crop_area", "jitter", "jitter_probability", "gray_probability", "blur_probability", "blur_sigma"}:
        if option in official:
            assert getattr(config.augment, option) == pytest.approx(official[option])
    own = getattr(config, name.removesuffix("_v1"), None)
    for option, ours in (("temperature", "temperature"), ("queue_size", "queue_size"), ("key_momentum", "momentum")):
        if option in official:
            assert getattr(own, ours) == official[option]


@pytest.mark.parametrize("name", OFFICIAL)
def test_learning_rates_are_the_official_ones(name: str):
    for batch, expected in OFFICIAL[name]["lr"].items():
        config = dataclasses.replace(recipe(name).optim, batch_size=int(batch))
        for epoch, lr in expected.items():
            # SimCLR's warm-up starts at 0, ours one step later.
            step = int(epoch) * STEPS - (name == "simclr" and int(epoch) < config.warmup_epochs)
            assert learning_rate(config, step, STEPS) == pytest.approx(lr, rel=1e-5), (batch, epoch)


@pytest.mark.parametrize("name", OFFICIAL)
def test_weight_decay_and_constant_rates_apply_to_the_official_parameters(name: str):
    torch.manual_seed(0)
    official, config = OFFICIAL[name], recipe(name).optim
    model = method(name)
    optimizer = make_optimizer(model, config, fused=False)
    assert type(optimizer).__name__ == official["optimizer"]
    assert {group["momentum"] for group in optimizer.param_groups} == {official["momentum"]}
    scheduled = set_learning_rate(optimizer, config, STEPS * config.epochs * 3 // 4, STEPS)
    peak = official["lr"][str(config.batch_size)].get("0")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert len(groups) == len(trained)
    for key, parameter in trained.items():
        group = groups[id(parameter)]
        exempt = official["without_weight_decay"] == "biases and norms" and parameter.ndim == 1
        assert group["weight_decay"] == (0.0 if exempt else official["weight_decay"]), key
        constant = key.split(".")[0] in official["constant_lr"]
        assert group["lr"] == pytest.approx(peak if constant else scheduled), key


@pytest.mark.parametrize("name", [name for name in OFFICIAL if "projector" in OFFICIAL[name]])
def test_heads_are_the_official_ones(name: str):
    model = method(name)
    for head in ("projector", "predictor"):
        if head in OFFICIAL[name]:
            assert [described(layer) for layer in getattr(model, head)] == OFFICIAL[name][head]


@pytest.mark.parametrize("name", OFFICIAL)
def test_residual_branches_start_at_zero_only_where_the_official_code_does_that(name: str):
    block = make_backbone(recipe(name)).layer1[0]
    assert bool((block.bn2.weight == 0).all()) == OFFICIAL[name]["zero_init_residual"]
    assert (block.bn1.weight == 1).all()


@pytest.mark.parametrize("weight_decay", [1e-4, 0.0])
def test_lars_scales_layers_but_not_biases_and_norms(weight_decay: float):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = make_optimizer(model, OptimConfig(optimizer="lars", weight_decay=weight_decay), fused=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()  # timm 1.0.26 overwrites it
    optimizer.step()
    for old, new, update in zip(before, model.parameters(), gradients, strict=True):
        if old.ndim > 1:
            trust = 0.001 * old.norm() / (update.norm() + weight_decay * old.norm())
            update = trust * (update + weight_decay * old)
        torch.testing.assert_close(new.detach(), old - 0.5 * update)


def test_the_predictor_is_warmed_up_too():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "predictor": nn.Linear(2, 2)})
    config = OptimConfig(epochs=10, batch_size=256, lr=1.0, warmup_epochs=2)
    optimizer = make_optimizer(model, config, fused=False)
    rates = []
    for step in (0, STEPS, 5 * STEPS):
        set_learning_rate(optimizer, config, step, STEPS)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates[0] == pytest.approx([1 / 800] * 2)
    assert rates[1] == pytest.approx([401 / 800] * 2)
    assert rates[2] == pytest.approx([learning_rate(config, 5 * STEPS, STEPS), 1.0])


@pytest.mark.parametrize("milestones", [(5, 3), (3, 10)])
def test_milestones_that_cannot_be_are_refused(milestones: tuple[int, ...]):
    optim = OptimConfig(epochs=10, schedule="step", milestones=milestones)
    with pytest.raises(SpdError, match=r"--optim\.milestones"):
        RECIPES["supervised"](data=DataConfig(train="photos"), out=Path("out"), optim=optim)
