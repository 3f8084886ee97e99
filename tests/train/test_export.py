"""What a run records about itself."""

import dataclasses
import json
from pathlib import Path

from spd_weights.release.export import export_backbone
from tests.spd_weights.conftest import random_backbone
from tests.train.helpers import small_config, write_photos
from train.config import ModelConfig
from train.loop import pretrain


def test_the_start_is_recorded_and_survives_a_resume(tmp_path: Path) -> None:
    facts = {"architecture": "test_resnet", "image_size": 32, "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    start = export_backbone(random_backbone(), tmp_path / "first" / "export", facts)
    photos = write_photos(tmp_path / "photos")
    config = small_config(
        photos, tmp_path / "run", model=ModelConfig(arch="test_resnet", init=f"local-dir:{start}"), log_every=1
    )
    stopped = dataclasses.replace(config, optim=dataclasses.replace(config.optim, max_steps=2))
    first = json.loads((pretrain(stopped) / "training.json").read_text())
    assert first["start"]["weights"] == "first"
    assert len(first["start_health"]) == len(first["health"])
    assert first["start_health"] != first["health"]
    resumed = json.loads((pretrain(config) / "training.json").read_text())
    assert resumed["steps"] > 2
    assert (resumed["start"], resumed["start_health"]) == (first["start"], first["start_health"])
