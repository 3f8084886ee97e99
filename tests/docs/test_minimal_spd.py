"""docs/minimal_spd.py computes what train/ computes: the same views for the same draws, the same losses."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import v2

from tests.train.helpers import ROOT, small_config, write_photos
from train.config import AugmentConfig, SpdConfig
from train.methods.simsiam import SimSiamMethod
from train.optim import learning_rate
from train.recipes import SimSiam, SimSiamConfig
from train.views import perturb
from train.views.views import ViewMaker, WeakDraws

SCRIPT = ROOT / "docs" / "minimal_spd.py"


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_spd", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photos(batch: int, size: int) -> Tensor:
    noise = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)


def draws(batch: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).random((batch, count))


def with_draws(minimal: ModuleType, monkeypatch: pytest.MonkeyPatch, order: list[float]) -> None:
    monkeypatch.setattr(minimal, "random", iter(order).__next__)


@pytest.mark.parametrize("size", [48, 224])
def test_smoothblend_of_the_same_draws_is_the_same(minimal: ModuleType, monkeypatch: pytest.MonkeyPatch, size: int):
    images, u = photos(24, size), draws(24, perturb.UNIFORMS)
    images[0] = 0.7  # flat: only the forced change shows
    images[1] = 0.0
    u[:2, 15:20] = 0.5  # no jitter
    u[12:, 2:4] *= 0.8
    u[12:, 4:6] = u[12:, 2:4] + np.linspace(0, 0.08, 12)[:, None]  # first places that overlap the source by 100 to 0 %
    expected, alpha = perturb.perturb(images, u, SpdConfig())
    for i, image in enumerate(images):
        with_draws(minimal, monkeypatch, [*u[i, :12], *u[i, 15:20]])
        torch.testing.assert_close(minimal.smoothblend(image), expected[i], atol=2e-6, rtol=0)
    assert (expected - images).abs().amax((1, 2, 3)).min() > 0.05  # there was something to compare
    assert 0 < alpha.mean() < 0.2


def test_weak_augmentation_of_the_same_draws_is_the_same(minimal: ModuleType, monkeypatch: pytest.MonkeyPatch):
    config = small_config(Path("unused"), Path("unused"))
    for size in (64, 224):
        images, u = photos(32, size), draws(32, 13)
        expected = ViewMaker(config, (0.0,) * 3, (1.0,) * 3, torch.device("cpu")).weak(
            images.clone(), WeakDraws.from_uniforms(u)
        )
        for i, image in enumerate(images):
            blur = [u[i, 6], u[i, 5]] if u[i, 6] < SpdConfig().weak_blur_probability else [u[i, 6]]
            with_draws(minimal, monkeypatch, [*u[i, :5], *blur, u[i, 12], *u[i, 7:12]])
            torch.testing.assert_close(minimal.weak(image), expected[i], atol=1e-4, rtol=0)


def test_strong_augmentation_has_the_strengths_of_the_recipe(minimal: ModuleType):
    config, parts = AugmentConfig(), minimal.strong(224).transforms
    crop, flip, _, jitter, gray, blur = parts
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert (crop.scale, crop.ratio) == (config.crop_area, (3 / 4, 4 / 3))
    assert (jitter.p, gray.p, blur.p) == (
        config.jitter_probability, config.gray_probability, config.blur_probability
    )  # fmt: skip
    (colors,), (gaussian,) = jitter.transforms, blur.transforms
    ranges = [colors.brightness, colors.contrast, colors.saturation, colors.hue]
    assert [high - low for low, high in ranges] == pytest.approx([2 * strength for strength in config.jitter])
    assert tuple(gaussian.sigma) == pytest.approx(config.blur_sigma)


def test_losses_are_those_of_the_recipe(minimal: ModuleType):
    torch.manual_seed(0)
    width = timm.create_model("test_resnet", num_classes=0).num_features
    backbone = timm.create_model("test_resnet", num_classes=0)
    ours = SimSiamMethod(backbone, width, SimSiamConfig(projector_dim=32, predictor_dim=8), SpdConfig(loss="cosine"))
    theirs = minimal.SimSiamWithSPD("test_resnet", dim=32, bottleneck=8)
    state = {name: value for name, value in ours.state_dict().items() if not name.startswith("spd.")}
    theirs.load_state_dict(state)  # strict: the same layers, the same biases

    views = {name: torch.randn(6, 3, 32, 32) for name in ("anchor", "second", "positive", "negative")}
    expected = ours(views)
    base, spd = theirs(**views)
    torch.testing.assert_close(base, expected["loss_base"], atol=1e-6, rtol=0)
    torch.testing.assert_close(spd, expected["loss_spd"], atol=1e-6, rtol=0)
    assert abs(spd) > 1e-4

    weight = SpdConfig().weight
    (expected["loss_base"] + weight * expected["loss_spd"]).backward()
    (base + weight * spd).backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-6, rtol=1e-4)


def test_the_learning_rate_is_that_of_the_recipe(minimal: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    optim, seen = SimSiam(data=small_config(tmp_path, tmp_path).data, out=tmp_path).optim, []

    class Recorder(torch.optim.SGD):
        def step(self) -> None:
            seen.append([group["lr"] for group in self.param_groups])
            assert {(g["momentum"], g["weight_decay"]) for g in self.param_groups} == {
                (optim.momentum, optim.weight_decay)
            }
            super().step()

    monkeypatch.setattr(minimal.torch.optim, "SGD", Recorder)
    minimal.pretrain(str(write_photos(tmp_path / "photos", 13)), "test_resnet", 32, epochs=2, batch=4)
    optim = type(optim)(epochs=2, batch_size=4)
    assert [encoder for encoder, _ in seen] == pytest.approx([learning_rate(optim, step, 3) for step in range(6)])
    assert [predictor for _, predictor in seen] == pytest.approx([learning_rate(optim, 0, 3)] * 6)


def test_the_script_trains_a_backbone(tmp_path: Path):
    folder, out = write_photos(tmp_path / "photos", 8), tmp_path / "backbone.safetensors"
    command = [sys.executable, str(SCRIPT), str(folder), "--arch", "test_resnet", "--size", "32", "--out", str(out)]
    done = subprocess.run(
        [*command, "--batch", "4"], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "step 2: SimSiam" in done.stdout
    timm.create_model("test_resnet", num_classes=0).load_state_dict(load_file(out))
    assert all(math.isfinite(value.float().sum()) for value in load_file(out).values())
