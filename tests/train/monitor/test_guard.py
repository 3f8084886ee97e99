"""Collapsed embeddings: what is measured of them, and that the alarm triggers if and only if they are."""

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
from train.monitor.guard import CollapseAlarm
from train.monitor.metrics import effective_rank, feature_std
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
        RECIPES[recipe](data=base.data, out=out).optim, epochs=80, batch_size=32, warmup_epochs=0, lr_scaling="none"
    )
    kept = {field.name: getattr(base, field.name) for field in dataclasses.fields(Config)} | {"log_every": 3}
    kept["optim"] = optim if lr is None else dataclasses.replace(optim, lr=lr)
    kept["spd"] = dataclasses.replace(base.spd, weight=0.0)
    if recipe == "simsiam":
        changes["simsiam"] = base.simsiam
    return RECIPES[recipe](**(kept | changes))


@pytest.mark.slow
def test_simsiam_without_its_stop_gradient_is_stopped_and_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photos = write_photos(tmp_path / "photos", 64)
    monkeypatch.setattr(SimSiamMethod, "forward", without_stop_gradient)
    config = run("simsiam", photos, tmp_path / "run", lr=2.0)
    with pytest.raises(SpdError, match=r"collapsed.*--on-collapse continue"):
        pretrain(config)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 100 < last["step"] < 160
    assert (tmp_path / "run" / "checkpoints" / f"step-{last['step']:08d}").exists()
    optim = dataclasses.replace(config.optim, max_steps=last["step"] + 2)
    pretrain(dataclasses.replace(config, on_collapse="continue", optim=optim))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["simsiam", "moco", "simclr"])
def test_healthy_runs_are_left_alone(recipe: str, tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 64)
    more = {"moco": MoCoConfig(queue_size=1024)} if recipe == "moco" else {}
    pretrain(run(recipe, photos, tmp_path / "run", **more))
    ranks = [
        json.loads(line)["effective_rank"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(ranks) == 54
    assert min(ranks) > 3 or recipe == "moco"  # whose queue holds random keys at first


def alarmed_at(ranks: list[float], every: int, steps_per_queue: int = 0) -> int | None:
    """The step at which the alarm triggers. It is rebuilt before each step: its memory must be in the progress."""
    progress: dict[str, object] = {}
    for step, rank in enumerate(ranks, 1):
        if step % every == 0:
            alarm = CollapseAlarm(64, steps_per_queue, json.loads(json.dumps(progress)))
            alarm.check({"step": step, "feature_std": 0.8, "effective_rank": rank})
            progress = alarm.progress
            if alarm.triggered:
                return step
    return None


@pytest.mark.parametrize("every", [1, 10, 50])
def test_the_alarm_counts_steps_however_often_they_are_logged(every: int):
    assert alarmed_at([9.0] * 200 + [2.0] * 300, every) == pytest.approx(300, abs=every)
    assert alarmed_at([2.0] * 90 + [9.0] * 10 + [2.0] * 90, every) is None


# A healthy MoCo's, ResNet-18 on photographs, from random keys: 1,024 of them, batches of 64, a value for 13 steps.
MOCO = [3.4, 2.0, 2.3, 2.8, 3.2, 3.5, 3.9, 4.0, 4.4, 4.5, 4.6, 5.2, 5.1, 5.3, 5.4, 5.6]


@pytest.mark.parametrize("keys", [1024, 65536])
def test_random_keys_of_moco_are_no_collapse_and_a_collapse_after_them_is_one(keys: int):
    steps = keys // 64
    healthy = [rank for rank in MOCO for _ in range(13 * keys // 1024)]
    assert alarmed_at(healthy, 10, steps) is None
    assert alarmed_at(healthy + [2.0] * 200, 10, steps) == pytest.approx(len(healthy) + 100, abs=10)
    assert alarmed_at([2.0] * 20 * steps, 10, steps) == pytest.approx(4 * steps + 100, abs=10)
