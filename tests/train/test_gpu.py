"""What only a GPU can show. `python -m pytest -m gpu tests/train/test_gpu.py` takes under five minutes on one."""

import dataclasses
import math
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.train.calls import take_step
from tests.train.helpers import SMALL, assert_same_weights, metrics, recipe_config, write_photos
from train.backbone import make_backbone
from train.data.loader import Crops
from train.data.sources import open_images
from train.loop import pretrain
from train.methods import build_method
from train.monitor.guard import LossGuard
from train.optim import make_optimizer
from train.setup import begin, configure_gpu
from train.views.views import ViewMaker

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def fresh_precision() -> None:
    """Accelerate keeps the first precision that a process asks for."""
    AcceleratorState._reset_state()


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("recipe", SMALL)
def test_three_steps(recipe: str, weight: float, precision: str, classes: Path, tmp_path: Path):
    pretrain(recipe_config(recipe, classes, tmp_path / "run", weight, optim={"max_steps": 3}, precision=precision))
    lines = metrics(tmp_path / "run")
    assert len(lines) == 3
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["gpu_memory_gib"] > 0


@pytest.mark.parametrize("recipe", SMALL)
def test_the_first_step_is_that_of_a_cpu(recipe: str, classes: Path, tmp_path: Path):
    config = recipe_config(recipe, classes, tmp_path, 0.1)
    configure_gpu(config)
    torch.manual_seed(0)
    method = build_method(config, make_backbone(config), classes=2).eval()
    views = {name: torch.randn(8, 3, 32, 32) for name in ("anchor", "second", "positive", "negative")}
    views["labels"] = torch.arange(8) % 2
    expected = method(views)
    found = method.cuda()({name: view.cuda() for name, view in views.items()})
    for name in ("loss_base", "loss_spd"):
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=1e-2, rtol=1e-2)  # TF32


@pytest.mark.parametrize("recipe", SMALL)
def test_saved_and_resumed_to_the_bit(recipe: str, classes: Path, tmp_path: Path):
    pretrain(recipe_config(recipe, classes, tmp_path / "whole", 0.1))
    for stop in (2, None):
        pretrain(recipe_config(recipe, classes, tmp_path / "parts", 0.1, optim={"max_steps": stop}))
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("recipe", ["simsiam", "moco"])
def test_compiled_steps(recipe: str, classes: Path, tmp_path: Path):
    pretrain(recipe_config(recipe, classes, tmp_path / "run", 0.1, optim={"max_steps": 3}, compile=True))
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "run"))


@pytest.mark.parametrize("recipe", SMALL)
def test_a_step_makes_the_cpu_wait_only_to_read_how_it_went(recipe: str, classes: Path, tmp_path: Path):
    run = begin(recipe_config(recipe, classes, tmp_path / "run", 0.1))
    make_views = ViewMaker(run.config, run.mean, run.std, run.accelerator.device)
    batch = Crops(run.images, run.config).__getitems__([(0, index) for index in range(8)]).pin_memory()
    guard = LossGuard(run.method, run.progress)
    run.wrapped.train()
    take_step(run, guard, make_views, batch)  # allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(run, guard, make_views, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_optimisers_take_the_step_of_plain_ones(optimizer: str, tmp_path: Path):
    config = recipe_config("simsiam", tmp_path, tmp_path, 0.1, optim={"optimizer": optimizer}).optim
    models = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(8, 8, 3).cuda().to(memory_format=torch.channels_last)
        stepper = make_optimizer(model, config, fused=fused)
        for group in stepper.param_groups:
            group["lr"] = 0.1
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        stepper.step()
        models.append(model)
    for plain, fused in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(plain, fused)


@pytest.mark.parametrize("size", [32, 224])
def test_views_are_those_of_a_cpu(size: int, tmp_path: Path):
    config = recipe_config("simsiam", write_photos(tmp_path / "photos", 16, side=256), tmp_path, 0.1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size))
    batch = Crops(open_images(config.data.train), config).__getitems__([(0, i) for i in range(16)])
    plain = ((0.0,) * 3, (1.0,) * 3)
    cpu, gpu = (ViewMaker(config, *plain, torch.device(device))(batch) for device in ("cpu", "cuda"))
    for name, view in cpu.items():
        assert (gpu[name].cpu() - view).abs().max() <= 1 / 255, name


def test_images_per_second_against_bare_passes(tmp_path: Path):
    """Printed with -s; the bound only catches gross faults, as data come from a small folder."""
    photos = write_photos(tmp_path / "photos", 512, side=256)
    config = recipe_config("simsiam", photos, tmp_path / "run", 0.1, optim={"batch_size": 64, "epochs": 4})
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=224, workers=8),
        model=dataclasses.replace(config.model, arch="resnet50"),
        precision="bf16",
    )
    pretrain(config)
    run = sorted(line["images_per_second"] for line in metrics(config.out)[8:])[12]
    method = build_method(config, make_backbone(config)).cuda().to(memory_format=torch.channels_last).train()
    names = ("anchor", "second", "positive", "negative")
    views = {name: torch.randn(64, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last) for name in names}
    for step in range(13):
        if step == 3:
            torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            out = method(views)
        (out["loss_base"] + 0.1 * out["loss_spd"]).backward()
    torch.cuda.synchronize()
    bare = 10 * 64 / (time.perf_counter() - started)
    print(f"\n{torch.cuda.get_device_name()}: {run:.0f} images/s, bare passes {bare:.0f}, ratio {bare / run:.2f}")
    assert bare / run < 3
