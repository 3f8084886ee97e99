"""Whole runs: what they write, that they survive being killed, and what they say when they cannot go on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.functional import normalize, to_tensor

from spd_weights.errors import SpdError
from tests.train.helpers import ARCH, ROOT, arguments, run_train, small_config, write_photos
from train.__main__ import main
from train.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, SpdConfig
from train.export import public_command
from train.loop import pretrain
from train.recipes import RECIPES as RECIPE_TYPES
from train.recipes import MoCoConfig, SimCLRConfig, SimSiamConfig


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 24)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of three steps, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(small_config(photos, out))
    return out


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    for (name, left), right in zip(weights(a).items(), weights(b).values(), strict=True):
        assert torch.equal(left, right), name


def test_a_run_writes_what_is_promised(finished: Path):
    assert sorted(p.name for p in finished.iterdir()) == ["checkpoints", "config.json", "export", "metrics.jsonl"]
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == ["step-00000003", "step-00000006"]
    assert json.loads((finished / "config.json").read_text())["optim"]["batch_size"] == 8
    lines = metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert set(lines[0]) == {
        "step", "epoch", "loss", "loss_base", "loss_spd", "spd_accuracy", "lr", "feature_std", "effective_rank",
        "images_per_second", "data_wait_fraction", "gradient_norm", "skipped_steps",
    }  # fmt: skip
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_base"] + 0.1 * line["loss_spd"], abs=1e-6)
        assert 0 < line["feature_std"] < 1.5
    record = json.loads((finished / "export" / "training.json").read_text())
    assert (record["steps"], record["images_seen"], record["architecture"]) == (6, 48, ARCH)
    assert record["final"]["loss"] == lines[-1]["loss"]
    assert str(finished) not in json.dumps(record)  # nothing about this machine is published


def test_a_finished_run_is_left_as_it_is(finished: Path, photos: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert pretrain(small_config(photos, finished)) == finished / "export"
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_finished_run_is_not_taken_for_one_on_other_data(finished: Path, tmp_path: Path, photos: Path):
    namesake = write_photos(tmp_path / photos.name, 24)  # published settings hold a folder's name, not its path
    with pytest.raises(SpdError, match=r"--data\.train was .* is "):
        pretrain(small_config(namesake, finished))


def test_the_published_command_holds_no_path(monkeypatch: pytest.MonkeyPatch):
    typed = [
        "simsiam",
        "--data.train",
        "/home/me/photos",
        "--data.val=/home/me/held_out",
        "--out=runs/x",
        "--seed",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", ["train", *typed])
    expected = "python -m train simsiam --data.train photos --data.val=held_out --out=x --seed 3"
    assert public_command() == expected


def test_the_export_is_the_trained_backbone(finished: Path):
    model = timm.create_model(f"local-dir:{finished / 'export'}", pretrained=True)
    checkpoint = load_file(finished / "checkpoints" / "step-00000006" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint[f"backbone.{name}"])


def test_weight_zero_is_the_bare_method_and_differs_from_spd(photos: Path, tmp_path: Path, finished: Path):
    pretrain(small_config(photos, tmp_path / "bare", spd=SpdConfig(weight=0)))
    lines = metrics(tmp_path / "bare")
    assert all(line["loss"] == line["loss_base"] and line["loss_spd"] is None for line in lines)
    # The strong views and the initial weights are the same, so the first step's base loss is, too.
    assert lines[0]["loss_base"] == metrics(finished)[0]["loss_base"]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights(tmp_path / "bare").values(), weights(finished).values(), strict=True)
    )


def test_a_killed_run_ends_with_the_same_weights(photos: Path, tmp_path: Path, finished: Path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "train", *arguments(photos, out)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.glob("checkpoints/step-*")), "no checkpoint appeared before the kill"
    resumed = run_train(*arguments(photos, out))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(out, finished)
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_first_losses_do_not_depend_on_the_workers(photos: Path, tmp_path: Path):
    losses = []
    for workers in (0, 1, 4):
        config = small_config(photos, tmp_path / str(workers), optim=OptimConfig(epochs=7, batch_size=8, max_steps=20))
        pretrain(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers)))
        losses.append([line["loss"] for line in metrics(config.out)])
    assert len(losses[0]) == 20
    assert losses[0] == losses[1] == losses[2]


RECIPES = {
    "simsiam": {"simsiam": SimSiamConfig(projector_dim=32, predictor_dim=8)},
    "moco": {"moco": MoCoConfig(dim=16, queue_size=16)},
    "simclr": {"simclr": SimCLRConfig(projector_dim=16)},
    "supervised": {},
}


def recipe_config(recipe: str, photos: Path, out: Path, weight: float, **changes: object) -> Config:
    """Any recipe as small as `small_config`, at its own optimiser and schedule."""
    kind = RECIPE_TYPES[recipe]
    own = kind(data=DataConfig(train=str(photos)), out=out)
    optim = {"epochs": 2, "batch_size": 8, **changes.pop("optim", {})}
    return kind(
        data=DataConfig(train=str(photos), image_size=32, workers=0),
        model=ModelConfig(arch=ARCH),
        optim=dataclasses.replace(own.optim, **optim),
        spd=SpdConfig(weight=weight),
        log_every=1,
        out=out,
        **{**RECIPES[recipe], **changes},
    )


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in two class folders."""
    folder = tmp_path_factory.mktemp("classes")
    for seed, name in enumerate(("bolt", "nut")):
        write_photos(folder / name, 12, seed=seed)
    return folder


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_stopped_mid_epoch_is_resumed_exactly(recipe: str, weight: float, classes: Path, tmp_path: Path):
    """Optimiser, momentum encoder and queue included; --optim.max-steps may grow, as it leaves the schedule alone."""
    pretrain(recipe_config(recipe, classes, tmp_path / "whole", weight))
    for stop in (2, 5, None):
        pretrain(recipe_config(recipe, classes, tmp_path / "stopped", weight, optim={"max_steps": stop}))
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_a_few_images(recipe: str, weight: float, classes: Path, tmp_path: Path):
    still = AugmentConfig(crop_area=(0.9, 1.0), jitter_probability=0, gray_probability=0, blur_probability=0)
    optim = {"epochs": 12, "lr": {"simclr": 2.0, "moco": 0.3}.get(recipe, 0.3), "warmup_epochs": 0}
    pretrain(recipe_config(recipe, classes, tmp_path / "run", weight, optim=optim, augment=still))
    losses = [line["loss_base"] for line in metrics(tmp_path / "run")]
    first, last = losses[3:8], losses[-5:]  # the first losses are low while MoCo's queue holds random keys
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


@pytest.mark.slow
def test_two_processes_share_the_batch_and_write_one_run(photos: Path, tmp_path: Path):
    """Batch norm sees half a batch a process on a CPU, so the losses differ a little; all else is checked."""
    out = tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
    result = run_train(*arguments(photos, out), launcher=launcher, ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    assert json.loads((out / "export" / "training.json").read_text())["processes"] == 2
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6]


def test_accelerate_launch_runs_the_module(photos: Path, tmp_path: Path, finished: Path):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "train")
    result = run_train(*arguments(photos, tmp_path / "launched"), launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path / "launched", finished)


Fails = Callable[..., str]


@pytest.fixture
def fails_with(capfd: pytest.CaptureFixture[str]) -> Fails:
    """Call the command line, which must end with exit code 2; gives back what it said."""

    def call(*args: str) -> str:
        try:
            code = main(args)
        except SystemExit as exit:  # the option parser's way out
            code = exit.code
        assert code == 2
        return capfd.readouterr().err

    return call


def test_a_missing_folder_is_named_and_nothing_is_left(tmp_path: Path):
    result = run_train(*arguments(tmp_path / "absent", tmp_path / "run"))
    assert result.returncode == 2
    assert "no such folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_explained(fails_with: Fails):
    assert "--optim.lerning-rate" in fails_with("simsiam", "--optim.lerning-rate", "1")


def test_too_many_bad_images_stop_the_run_and_few_do_not(
    tmp_path: Path, fails_with: Fails, capfd: pytest.CaptureFixture[str]
):
    photos = write_photos(tmp_path / "photos", 20)
    (photos / "005.jpg").write_text("not an image")
    (photos / "006.jpg").write_bytes((photos / "006.jpg").read_bytes()[:150])
    assert main(arguments(photos, tmp_path / "few")) == 0
    skipped = [line for line in capfd.readouterr().err.splitlines() if "skipped an unreadable image" in line]
    assert len(skipped) == 2  # named once each, though every epoch meets them
    assert "005.jpg" in "".join(skipped)
    assert "006.jpg" in "".join(skipped)
    assert json.loads((tmp_path / "few/export/training.json").read_text())["data"]["unreadable"] == 2
    for i in range(8, 14):
        next(photos.glob(f"{i:03d}.*")).write_text("not an image")
    message = fails_with(*arguments(photos, tmp_path / "many"))
    assert "of the 20 images" in message
    assert "max-bad-fraction" in message
    assert not (tmp_path / "many" / "export").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model.arch", "resnet81"), "resnet81"),
        (("--model.init", "local-dir:/nowhere"), "/nowhere"),
        (("--optim.batch-size", "25"), "25 is larger than the dataset, which has 24 images"),
        (("--data.image-size", "8"), "--data.image-size 8"),
    ],
)
def test_what_cannot_work_is_said(
    photos: Path, tmp_path: Path, change: tuple[str, str], message: str, fails_with: Fails
):
    assert message in fails_with(*arguments(photos, tmp_path / "run"), *change)


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
    with pytest.raises(SpdError, match="has 17 images, 16 when the run"):
        pretrain(small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=2, batch_size=8, max_steps=2)))


def test_a_loss_that_is_no_number_stops_the_run(photos: Path, tmp_path: Path):
    with pytest.raises(SpdError, match=r"10 steps in a row .* saved in .* after step 11 of 120"):
        pretrain(small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=40, batch_size=8, lr=1e30)))
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000011" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())  # batch statistics, too
    assert metrics(tmp_path / "run")[-1]["loss"] is None


def test_print_config_shows_every_setting_and_trains_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(photos, tmp_path / "run", "--print-config")) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["recipe"], config["spd"]["weight"], config["optim"]["epochs"]) == ("simsiam", 0.1, 2)
    assert not (tmp_path / "run").exists()


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
