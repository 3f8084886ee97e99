"""Compiled and mixed-precision steps really run."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from spd_weights.errors import SpdError
from tests.train.helpers import SMALL, metrics, recipe_config, small_config
from train.backbone import make_backbone
from train.loop import pretrain
from train.methods import build_method


@pytest.mark.parametrize("recipe", SMALL)
def test_a_bf16_run_is_close_to_a_float32_run(recipe: str, classes: Path, tmp_path: Path):
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state()  # which otherwise keeps a process's first precision
        optim = {"max_steps": 2}
        pretrain(recipe_config(recipe, classes, tmp_path / precision, 0.1, optim=optim, precision=precision))
    AcceleratorState._reset_state()
    exact, mixed = (metrics(tmp_path / precision) for precision in ("no", "bf16"))
    for name in ("loss_base", "loss_spd"):
        assert exact[0][name] == pytest.approx(mixed[0][name], abs=0.05)
    assert exact[0]["loss_base"] != mixed[0]["loss_base"]  # it was in half precision
    assert math.isfinite(mixed[1]["loss"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can")
def test_fp16_without_a_gpu_is_refused(photos: Path, tmp_path: Path):
    with pytest.raises(SpdError, match="--precision fp16 needs a GPU"):
        pretrain(small_config(photos, tmp_path / "run", precision="fp16"))


@pytest.mark.parametrize("recipe", ["moco", *(pytest.param(r, marks=pytest.mark.slow) for r in SMALL if r != "moco")])
def test_a_method_compiles_into_one_graph(recipe: str, tmp_path: Path):
    """`fullgraph` raises where the graph would break."""
    config = recipe_config(recipe, tmp_path, tmp_path, 0.1)
    torch.manual_seed(0)
    method = build_method(config, make_backbone(config), classes=3).train()
    views = {name: torch.randn(8, 3, 32, 32) for name in ("anchor", "second", "positive", "negative")}
    views["labels"] = torch.arange(8) % 3
    expected = method.eval()(views)
    method.compile(backend="eager", fullgraph=True)
    compiled = method(views)
    for name in ("loss_base", "loss_spd"):
        torch.testing.assert_close(compiled[name], expected[name])
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_computes_the_same(classes: Path, tmp_path: Path):
    for compiled in (False, True):
        optim = {"max_steps": 2}  # the cheapest recipe to compile
        pretrain(recipe_config("supervised", classes, tmp_path / str(compiled), 0.0, optim=optim, compile=compiled))
    plain, compiled = (metrics(tmp_path / str(compiled)) for compiled in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
