"""How many calls the views of a batch cost a GPU, and that the CPU does not wait for it."""

import pytest
import torch

from tests.train.calls import CallCounter
from tests.train.views.test_views import make_batch, make_config
from train.config import SpdConfig
from train.views.views import ViewMaker

LIMITS = {"simsiam": 690, "supervised": 465, "adapt": 350}
"""Calls per batch. SimSiam had 2,189 before images were sorted by operation at each position of the jitter."""


@pytest.mark.parametrize("recipe", LIMITS)
def test_views_take_few_calls_and_never_wait_for_the_device(recipe: str):
    config, counts = make_config(recipe, 32), []
    maker = ViewMaker(config, (0.5,) * 3, (0.2,) * 3, torch.device("meta"))
    for count in (64, 256):
        with CallCounter("meta") as counter:
            views = maker(make_batch(config, count))
        assert views["anchor"].device.type == "meta"
        assert counter.waits == 0
        counts.append(counter.calls)
    assert counts[0] <= LIMITS[recipe]
    assert counts[1] <= counts[0] + 5  # a larger batch takes no more


@pytest.mark.parametrize("perturbation", ["smoothblend_literal", "cutpaste", "cutpaste_scar", "flaws"])
def test_no_perturbation_waits_for_the_device(perturbation: str):
    config = make_config("simsiam", 32, spd=SpdConfig(perturbation=perturbation))
    with CallCounter("meta") as counter:
        ViewMaker(config, (0.5,) * 3, (0.2,) * 3, torch.device("meta"))(make_batch(config, 16))
    assert counter.waits == 0
