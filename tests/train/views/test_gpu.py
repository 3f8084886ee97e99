"""Views on a GPU against the same views on a CPU."""

import pytest
import torch

from tests.train.views.test_views import make_batch, make_config
from train.config import SpdConfig
from train.recipes import IN_PLACE
from train.views.views import ViewMaker

SPD = {"flaws": {"spd": SpdConfig(weight=1.0, perturbation="flaws", **IN_PLACE)}}


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize(
    ("recipe", "spd"), [("simsiam", ""), ("simclr", ""), ("supervised", ""), ("adapt", ""), ("adapt", "flaws")]
)
def test_views_on_a_gpu_equal_those_on_a_cpu(recipe: str, spd: str, size: int):
    config = make_config(recipe, size, **SPD.get(spd, {}))
    makers = [ViewMaker(config, (0.0,) * 3, (1.0,) * 3, torch.device(device)) for device in ("cpu", "cuda")]
    expected, found = (maker.unnormalized(make_batch(config, 32)) for maker in makers)
    assert expected.keys() == found.keys()
    for name, view in expected.items():
        assert (found[name].cpu() - view).abs().max() <= 1 / 255, name
