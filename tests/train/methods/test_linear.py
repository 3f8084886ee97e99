"""Linear evaluation: only the classifier learns, and a run measures it and resumes exactly."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from spd_weights.errors import SpdError
from tests.train.helpers import ARCH, metrics
from tests.train.methods.helpers import backbone, views
from train.config import DataConfig, ModelConfig, OptimConfig, SpdConfig
from train.loop import pretrain
from train.methods.linear import LinearMethod
from train.recipes import Linear


def test_only_the_classifier_learns():
    method = LinearMethod(*backbone(), 3).train()
    before = {name: tensor.clone() for name, tensor in method.backbone.state_dict().items()}
    batch = {**views("anchor"), "labels": torch.tensor([0, 2, 1, 2])}
    out = method(batch)
    features = method.backbone.eval()(batch["anchor"])
    torch.testing.assert_close(out["loss_base"], F.cross_entropy(method.classifier(features), batch["labels"]))
    out["loss_base"].backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.backbone.state_dict().items())


@pytest.fixture
def config(tmp_path: Path) -> Linear:
    """A run on dark and light images."""
    classes, rng = tmp_path / "classes", np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 190)):
        (classes / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(brightness - 40, brightness + 40, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(classes / name / f"{i}.png")
    return Linear(
        data=DataConfig(train=str(classes), val=str(classes), image_size=32, workers=0),
        model=ModelConfig(arch=ARCH, init="none"),
        optim=OptimConfig(epochs=6, batch_size=8, lr=30.0, schedule="step", milestones=(4, 5), weight_decay=0.0),
        log_every=1,
        out=tmp_path / "whole",
    )


def test_a_run_learns_to_tell_classes_apart_and_resumes_exactly(config: Linear, tmp_path: Path):
    pretrain(config)
    for last in (5, None):
        optim = dataclasses.replace(config.optim, max_steps=last)
        pretrain(dataclasses.replace(config, optim=optim, out=tmp_path / "parts"))
    whole, parts = (load_file(tmp_path / n / "checkpoints/step-00000018/model.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    accuracies = [line["val_top1"] for line in metrics(tmp_path / "whole") if "val_top1" in line]
    assert len(accuracies) == 6
    assert accuracies[-1] > 0.8


def test_the_high_losses_of_the_first_steps_do_not_end_a_run(config: Linear):
    """MoCo's learning rate of 30 gives an ImageNet-trained MobileNetV2 losses of thousands at first."""
    pretrain(dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=3e4)))
    lines = [line for line in metrics(config.out) if "loss" in line]
    assert lines[1]["loss"] > 100 * lines[0]["loss"]
    assert lines[-1]["loss"] < lines[1]["loss"] / 2
    assert lines[-1]["skipped_steps"] == 0


def test_spd_is_refused(tmp_path: Path):
    with pytest.raises(SpdError, match=r"--spd\.weight"):
        Linear(data=DataConfig(train="photos"), out=tmp_path, spd=SpdConfig(weight=0.1))
