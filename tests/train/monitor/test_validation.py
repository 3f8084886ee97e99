"""Measuring during training has no effect on the run, and several processes measure what one does."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.helpers import ROOT, arguments, run_train, small_config, write_photos
from train.__main__ import main
from train.loop import pretrain
from train.monitor.validation import open_validation
from train.recipes import from_json
from train.setup import begin


def test_probes_come_when_asked_for_and_change_nothing(parts: Path, tmp_path: Path):
    photos, val = write_photos(tmp_path / "photos", 24), tmp_path / "val"
    for name, seed in (("a", 1), ("b", 2)):
        write_photos(val / name, 6, seed=seed)
    plain = pretrain(small_config(photos, tmp_path / "plain"))
    options = arguments(
        photos, tmp_path / "probed", "--data.val", str(val), "--probe.anomaly", str(parts), "--probe.knn-bank", str(val)
    )
    assert main([*options, "--probe.every", "2"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "probed/metrics.jsonl").read_text().splitlines()]
    probes = [line for line in lines if "val_knn_top1" in line]
    assert [line["step"] for line in probes] == [6]  # two epochs of three steps
    assert set(probes[0]) == {"step", "val_knn_top1", "probe_image_auroc", "probe_pixel_ap"}
    weights = [(folder / "model.safetensors").read_bytes() for folder in (plain, tmp_path / "probed/export")]
    assert weights[0] == weights[1]


def test_the_listings_of_validation_images_are_kept(classes: Path, tmp_path: Path):
    options = arguments(classes, tmp_path / "run", "--data.val", str(classes), "--probe.knn-bank", str(classes))
    assert main([*options, "--optim.max-steps", "1"]) == 0
    for name in ("val", "knn_bank"):
        kept = tmp_path / "run" / f"listing.{name}.json"
        known = json.loads(kept.read_text())
        assert len(known["layout"]["files"]) == 24
        known["layout"]["files"].remove("nut/001.jpg")  # shows whether the folder is listed again
        kept.write_text(json.dumps(known))
    config = from_json(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert [len(table) for table in open_validation(begin(config))] == [23, 23]


_WORKER = """
import dataclasses, sys, torch
from pathlib import Path
from tests.train.helpers import recipe_config
from train.distributed import processes, rank
from train.monitor import validation
from train.monitor.log import StepLog
from train.setup import begin

classes, out = map(Path, sys.argv[1:])
config = recipe_config("supervised", classes, out, 0.0)
run = begin(dataclasses.replace(config, data=dataclasses.replace(config.data, val=str(classes))))
for module in run.method.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.add_(rank())  # as after steps in which each process saw other images
measure = validation._outputs

def recorded(*arguments):
    outputs = measure(*arguments)
    if rank() == 0:
        torch.save(outputs, out / "outputs.pt")
    return outputs

validation._outputs = recorded
with StepLog(run) as log:
    validation.validate(run, validation.open_validation(run), 1, log)
"""


@pytest.mark.slow
def test_all_processes_measure_with_the_batch_statistics_of_the_first(classes: Path, tmp_path: Path):
    worker, outputs = tmp_path / "worker.py", []
    worker.write_text(_WORKER)
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(worker))
    for name, launcher in (("one", (str(worker),)), ("two", two)):
        environment = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        done = run_train(str(classes), str(tmp_path / name), launcher=launcher, **environment)
        assert done.returncode == 0, done.stderr
        outputs.append(torch.load(tmp_path / name / "outputs.pt", weights_only=True))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(other, one)
