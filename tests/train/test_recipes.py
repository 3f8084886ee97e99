"""Every recipe: it resumes exactly, it learns, and two processes compute what one does."""

import dataclasses
from pathlib import Path

import pytest
import timm
from PIL import Image
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.functional import normalize, to_tensor

from tests.train.helpers import ARCH, SMALL, assert_same_weights, metrics, recipe_config, run_train
from train.__main__ import main
from train.config import AugmentConfig
from train.loop import pretrain


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("recipe", SMALL)
def test_every_recipe_stopped_mid_epoch_is_resumed_exactly(recipe: str, weight: float, classes: Path, tmp_path: Path):
    """Optimiser, momentum encoder and queue included; --optim.max-steps may grow, as it leaves the schedule alone."""
    pretrain(recipe_config(recipe, classes, tmp_path / "whole", weight))
    for stop in (2, 5, None):
        pretrain(recipe_config(recipe, classes, tmp_path / "stopped", weight, optim={"max_steps": stop}))
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("recipe", SMALL)
def test_every_recipe_learns_a_few_images(recipe: str, weight: float, classes: Path, tmp_path: Path):
    still = AugmentConfig(crop_area=(0.9, 1.0), jitter_probability=0, gray_probability=0, blur_probability=0)
    epochs = 24 if recipe == "moco" else 12  # keys follow the queries only slowly
    optim = {"epochs": epochs, "lr": 2.0 if recipe == "simclr" else 0.3, "warmup_epochs": 0}
    pretrain(recipe_config(recipe, classes, tmp_path / "run", weight, optim=optim, augment=still))
    losses = [line["loss_base"] for line in metrics(tmp_path / "run")]
    third = len(losses) // 3
    first, last = losses[3 : 3 + third], losses[-third:]  # losses are low while MoCo's queue holds random keys
    assert sum(last) < sum(first) - 0.1 * abs(sum(first))


def test_supervised_accuracy_is_that_of_a_separate_computation(classes: Path, tmp_path: Path):
    config = recipe_config("supervised", classes, tmp_path / "run", 0.0)
    pretrain(dataclasses.replace(config, data=dataclasses.replace(config.data, val=str(classes))))
    measured = [line for line in metrics(tmp_path / "run") if "val_top1" in line]
    assert [line["step"] for line in measured] == [3, 6]
    state = load_file(tmp_path / "run/checkpoints/step-00000006/model.safetensors")
    model = timm.create_model(ARCH, num_classes=2).eval()
    model.load_state_dict(
        {k.replace("backbone.", "").replace("classifier.", "fc."): v for k, v in state.items() if "spd" not in k}
    )
    correct = 0
    for label, name in enumerate(("bolt", "nut")):
        for path in (classes / name).iterdir():
            image = Image.open(path).convert("RGB")
            side = min(image.size) * 7 / 8
            box = [(image.width - side) / 2, (image.height - side) / 2]
            crop = image.resize((32, 32), Image.Resampling.BILINEAR, box=(*box, box[0] + side, box[1] + side))
            tensor = normalize(to_tensor(crop), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)[None]
            correct += int(model(tensor).argmax() == label)
    assert measured[-1]["val_top1"] == pytest.approx(correct / 24)
    assert measured[-1]["val_top5"] == 1


@pytest.mark.parametrize("recipe", ["moco", pytest.param("supervised", marks=pytest.mark.slow)])
def test_two_processes_compute_what_one_does(recipe: str, classes: Path, tmp_path: Path):
    """On a backbone without batch norm, which on a CPU sees its own process's share alone."""
    common = (
        recipe, "--data.train", str(classes), "--model.arch", "test_vit", "--data.image-size", "32",
        "--optim.epochs", "2", "--optim.batch-size", "8", "--log-every", "1",
        *(("--moco.queue-size", "16", "--moco.dim", "16") if recipe == "moco" else ()),
    )  # fmt: skip
    assert main([*common, "--data.workers", "2", "--out", str(tmp_path / "one")]) == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
    two = run_train(
        *common, "--data.workers", "0", "--out", str(tmp_path / "two"),
        launcher=launcher, ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    for one, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for name in ("loss_base", "loss_spd"):
            assert one[name] == pytest.approx(other[name], abs=2e-4), (one["step"], name)
