"""Whole runs: what they write, and that a killed one resumes to the same weights."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from spd_weights.errors import SpdError
from tests.train.helpers import (
    ARCH,
    ROOT,
    arguments,
    assert_same_weights,
    metrics,
    run_train,
    small_config,
    weights,
)
from train.__main__ import main
from train.config import OptimConfig, SpdConfig
from train.export import public_command
from train.loop import pretrain
from train.recipes import RECIPES


def test_a_run_writes_what_is_promised(finished: Path):
    assert sorted(p.name for p in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "export",
        "listing.train.json",
        "metrics.jsonl",
    ]
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_runs_config_starts_another(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    length = "steps" if recipe == "adapt" else "epochs"
    typed = [recipe, "--data.train", "photos", "--out", "run", f"--optim.{length}", "200", "--probe.anomaly", "parts"]
    assert main([*typed, "--print-config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "config.json").write_text(first)
    again = ["--config", str(tmp_path / "config.json"), "--seed", "1", "--optim.lr", "0.5", "--print-config"]
    assert main(again) == 0
    expected, changed = json.loads(first), json.loads(capsys.readouterr().out)
    expected["seed"], expected["optim"]["lr"] = 1, 0.5
    assert changed == expected


def test_a_config_that_fits_no_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    contents = {
        "byol": {"recipe": "byol"},
        "--optim.rate": {"recipe": "moco", "optim": {"rate": 1}},
        "'data'": {"recipe": "moco"},
    }
    for message, content in contents.items():
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert main(["--config", str(tmp_path / "config.json")]) == 2
        assert message in capsys.readouterr().err


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


def test_the_data_can_be_given_a_name_for_the_card(photos: Path, tmp_path: Path):
    config = small_config(photos, tmp_path / "run", optim=OptimConfig(batch_size=8, max_steps=1))
    pretrain(dataclasses.replace(config, data=dataclasses.replace(config.data, name="Caltech-101")))
    record = json.loads((tmp_path / "run" / "export" / "training.json").read_text())
    assert record["data"]["name"] == "Caltech-101"
    pretrain(config)  # which is the same run, by the name of its folder
    record = json.loads((tmp_path / "run" / "export" / "training.json").read_text())
    assert record["data"]["name"] == photos.name


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_share_the_batch_and_write_one_run(photos: Path, tmp_path: Path):
    """Batch norm sees half a batch a process on a CPU, so the losses differ a little; all else is checked."""
    out = tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
    result = run_train(*arguments(photos, out), launcher=launcher, ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    assert json.loads((out / "export" / "training.json").read_text())["processes"] == 2
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_accelerate_launch_runs_the_module(photos: Path, tmp_path: Path, finished: Path):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "train")
    result = run_train(*arguments(photos, tmp_path / "launched"), launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path / "launched", finished)


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
