"""How many calls a whole step costs a GPU, and that the CPU waits for it once: to read how the step went."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.train.calls import CallCounter, take_step
from tests.train.helpers import recipe_config
from train.data.loader import Crops
from train.monitor import agreement
from train.monitor.guard import LossGuard
from train.optim import make_optimizer
from train.setup import begin
from train.views.views import ViewMaker

LIMITS = {"simsiam": 1720, "moco": 1480, "simclr": 1690, "supervised": 1035, "adapt": 1090}
"""Calls per step of a small ResNet with SPD, views included: 5 % above what was counted."""


@pytest.mark.parametrize("recipe", LIMITS)
def test_a_step_takes_few_calls_and_waits_for_the_device_once(
    recipe: str, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On the meta device, where nothing is computed: what reads a value raises, and blocking copies are counted."""
    read: list[torch.Tensor] = []
    monkeypatch.setattr(agreement, "Reading", read.append)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device has none
    optim = {"steps": None} if recipe == "adapt" else {}
    config = recipe_config(recipe, classes, tmp_path / "run", 0.1, optim=optim)
    run = begin(dataclasses.replace(config, model=dataclasses.replace(config.model, init="none")))
    run.method = run.wrapped = run.method.to("meta")
    run.optimizer = make_optimizer(run.method, config.optim, fused=False)
    device = torch.device("meta")
    make_views, batch = ViewMaker(config, run.mean, run.std, device), Crops(run.images, config)
    batch = batch.__getitems__([(0, index) for index in range(8)])
    guard = LossGuard(run.method, run.progress)
    run.method.train()
    with CallCounter("meta") as counter:
        take_step(run, guard, make_views, batch)
    assert counter.waits == 0
    assert [numbers.shape for numbers in read] == [(8,)]  # loss, norm, four reasons to stop, two votes
    assert counter.calls <= LIMITS[recipe]
