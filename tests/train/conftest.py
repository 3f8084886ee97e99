"""One thread, here as in the processes that tests start: the order of sums depends on how many there are."""

from pathlib import Path

import pytest
import torch

from tests.train.helpers import small_config, write_photos
from train.loop import pretrain

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 24)


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of three steps, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(small_config(photos, out))
    return out


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in two class folders."""
    folder = tmp_path_factory.mktemp("classes")
    for seed, name in enumerate(("bolt", "nut")):
        write_photos(folder / name, 12, seed=seed)
    return folder
