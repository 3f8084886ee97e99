"""Which commands may resume what a folder holds."""

import dataclasses
from pathlib import Path

import pytest
import torch

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, weights, write_photos
from train.config import OptimConfig
from train.loop import pretrain


def test_a_finished_run_is_left_as_it_is(finished: Path, photos: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert pretrain(small_config(photos, finished)) == finished / "export"
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_finished_run_is_not_taken_for_one_on_other_data(finished: Path, tmp_path: Path, photos: Path):
    namesake = write_photos(tmp_path / photos.name, 24)  # published settings hold a folder's name, not its path
    with pytest.raises(SpdError, match=r"--data\.train was .* is "):
        pretrain(small_config(namesake, finished))


def test_a_folder_with_another_run_is_left_alone(photos: Path, finished: Path):
    before = weights(finished)
    with pytest.raises(SpdError, match=r"--seed was 0, is 1"):
        pretrain(small_config(photos, finished, seed=1))
    with pytest.raises(SpdError, match="--resume never"):
        pretrain(small_config(photos, finished, resume="never"))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(finished).values(), strict=True))


def test_changed_data_is_noticed_on_resume(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 16)
    pretrain(small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=2, batch_size=8, max_steps=1)))
    write_photos(tmp_path / "photos" / "more", 1)
    with pytest.raises(SpdError, match="has 17 images, but had 16 when the run"):
        pretrain(small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=2, batch_size=8, max_steps=2)))


def test_checkpoints_without_their_config_are_not_gone_on_from_with_other_settings(photos: Path, tmp_path: Path):
    config = small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=2, batch_size=8, max_steps=3))
    pretrain(config)
    (config.out / "config.json").unlink()
    changed = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.2, max_steps=None))
    with pytest.raises(SpdError, match=r"--optim\.lr was 0\.05, is 0\.2"):
        pretrain(changed)
    with pytest.raises(SpdError, match="holds a run"):
        pretrain(dataclasses.replace(config, resume="never"))
    pretrain(dataclasses.replace(config, optim=dataclasses.replace(config.optim, max_steps=None)))
    assert (config.out / "checkpoints" / "step-00000006").exists()
