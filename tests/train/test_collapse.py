"""Collapsed embeddings: what is measured of them, and that the alarm sounds when and only when they are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.config import Config
from train.loop import pretrain
from train.methods.simsiam import SimSiamMethod
from train.monitors import effective_rank, feature_std
from train.recipes import RECIPES, MoCoConfig


def test_effective_rank_is_the_entropy_of_the_spectrum():
    x = torch.randn(40, 9, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 10)
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    shares = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2
    shares = shares / shares.sum()
    assert effective_rank(x).item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_a_line_behind_a_batch_norm_has_spread_but_rank_one():
    line = torch.randn(64, 1) @ torch.randn(1, 32)
    normalised = F.batch_norm(line, None, None, training=True)
    assert feature_std(normalised) > 0.9
    assert effective_rank(normalised).item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("features", [torch.ones(8, 4), torch.full((8, 4), torch.nan)])
def test_rank_of_what_has_none_is_one(features: Tensor):
    assert effective_rank(features).item() == pytest.approx(1, abs=1e-2)


def without_stop_gradient(self: SimSiamMethod, views: dict[str, Tensor]) -> dict[str, Tensor]:
    z1, z2 = self.embed(views["anchor"]), self.embed(views["second"])
    attraction = F.cosine_similarity(self.predictor(z1), z2) + F.cosine_similarity(self.predictor(z2), z1)
    return {"loss_base": -attraction.mean() / 2, "features": z1.detach()}


def run(recipe: str, photos: Path, out: Path, lr: float | None = None, **changes: object) -> Config:
    base = small_config(photos, out)
    optim = dataclasses.replace(
        RECIPES[recipe](data=base.data, out=out).optim, epochs=60, batch_size=32, warmup_epochs=0, lr_scaling="none"
    )
    kept = {field.name: getattr(base, field.name) for field in dataclasses.fields(Config)} | {"log_every": 3}
    kept["optim"] = optim if lr is None else dataclasses.replace(optim, lr=lr)
    kept["spd"] = dataclasses.replace(base.spd, weight=0.0)
    if recipe == "simsiam":
        changes["simsiam"] = base.simsiam
    return RECIPES[recipe](**(kept | changes))


def test_simsiam_without_its_stop_gradient_is_stopped_and_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photos = write_photos(tmp_path / "photos", 64)
    monkeypatch.setattr(SimSiamMethod, "forward", without_stop_gradient)
    config = run("simsiam", photos, tmp_path / "run", lr=2.0)
    with pytest.raises(SpdError, match=r"collapsed.*--on-collapse continue"):
        pretrain(config)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] < 120
    assert (tmp_path / "run" / "checkpoints" / f"step-{last['step']:08d}").exists()
    optim = dataclasses.replace(config.optim, max_steps=last["step"] + 2)
    pretrain(dataclasses.replace(config, on_collapse="continue", optim=optim))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["simsiam", "moco", "simclr"])
def test_healthy_runs_are_left_alone(recipe: str, tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 64)
    more = {"moco": MoCoConfig(queue_size=64)} if recipe == "moco" else {}
    pretrain(run(recipe, photos, tmp_path / "run", **more))
    ranks = [
        json.loads(line)["effective_rank"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(ranks) == 40
    assert min(ranks) > 3
