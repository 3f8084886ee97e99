"""Which commands may resume what a folder holds."""

import dataclasses
from pathlib import Path

import pytest
import torch

from spd_weights.errors import SpdError
from tests.train.helpers import assert_same_weights, small_config, weights, write_photos
from train.config import OptimConfig, ProbeConfig
from train.loop import pretrain


def test_a_finished_run_is_left_as_it_is(finished: Path, photos: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert pretrain(small_config(photos, finished)) == finished / "export"
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_data_may_move_but_not_change(tmp_path: Path, photos: Path, finished: Path):
    first = write_photos(tmp_path / "here" / "photos", 24)
    config = small_config(first, tmp_path / "run", optim=OptimConfig(epochs=2, batch_size=8, max_steps=2))
    pretrain(config)
    moved = (tmp_path / "there").mkdir() or first.rename(tmp_path / "there" / "photos")
    optim, probe = dataclasses.replace(config.optim, max_steps=None), ProbeConfig(every=3)
    resumed = small_config(moved, config.out, optim=optim, probe=probe)
    data = dataclasses.replace(resumed.data, val=str(classes_of(tmp_path)))
    pretrain(dataclasses.replace(resumed, data=data))
    assert_same_weights(config.out, finished)
    (moved / "003.jpg").rename(moved / "other.jpg")
    with pytest.raises(SpdError, match="other names"):  # finished, and the folder's name is the same
        pretrain(small_config(moved.rename(tmp_path / "photos"), config.out))


def classes_of(folder: Path) -> Path:
    for seed, name in enumerate(("a", "b")):
        write_photos(folder / "val" / name, 4, seed=seed)
    return folder / "val"


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
    with pytest.raises(SpdError, match=r"has 17 images, but the run in .* started with 16"):
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
