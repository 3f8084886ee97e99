"""What SPD learns on some images holds on others, and comes from the perturbation alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.helpers import small_config, write_photos
from train.config import AugmentConfig, Config, OptimConfig, SpdConfig
from train.data.loader import Crops
from train.data.sources import open_images
from train.loop import pretrain
from train.setup import begin
from train.views import perturb
from train.views.views import ViewMaker


def accuracy_on_other_images(tmp_path: Path) -> tuple[float, float]:
    """SPD accuracy on held-out images, before and after a short run: bold patches, told by the binary classifier."""
    photos, others = (write_photos(tmp_path / name, 192, seed=seed) for seed, name in enumerate(("photos", "others")))
    config = small_config(
        photos,
        tmp_path / "run",
        optim=OptimConfig(epochs=50, batch_size=32, lr=0.01, optimizer="adamw", lr_scaling="none"),
        augment=AugmentConfig(crop_area=(0.8, 1.0), jitter_probability=0, gray_probability=0, blur_probability=0),
        spd=SpdConfig(weight=1.0, loss="cross_entropy", patch_area=(0.05, 0.1), patch_jitter=(0.6, 0.6, 0.6, 0.3)),
        log_every=30,
    )
    before = accuracy(config, others)
    pretrain(config)
    return before, accuracy(config, others)


def accuracy(config: Config, images: Path) -> float:
    """Of the run as its newest checkpoint has it, if there is one."""
    run = begin(config)
    batch = Crops(open_images(str(images)), config).__getitems__([(0, index) for index in range(192)])
    with torch.no_grad():
        views = ViewMaker(config, run.mean, run.std, torch.device("cpu"))(batch)
        return run.method(views)["spd_accuracy"].item()


def unperturbed(images: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return images, torch.zeros_like(images[:, :1])


@pytest.mark.slow
def test_spd_accuracy_rises_on_images_not_trained_on(tmp_path: Path):
    before, after = accuracy_on_other_images(tmp_path)
    assert before < 0.6
    assert after > 0.8


@pytest.mark.slow
def test_spd_accuracy_stays_at_chance_without_a_perturbation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(perturb, "perturb", unperturbed)
    _, after = accuracy_on_other_images(tmp_path)
    assert 0.42 < after < 0.58  # three standard deviations of 384 coin tosses
