"""The 2-class protocols at work: several processes, an interruption, rendered parts."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from eval.data.datasets import draw_shots, load_categories
from eval.data.masks import read_masks
from eval.finetune.training import Training
from eval.finetune.two_class import TwoClassPredictor
from eval.metrics.metrics import image_metrics, pixel_metrics
from eval.predictions import Run
from synthetic.folder import write
from synthetic.parts import files
from tests.eval.helpers import mvtec_category

pytestmark = pytest.mark.slow
OPTIONS = [
    "--weights", "random:test_resnet", "random:test_efficientnet", "--seeds", "2",
    "--protocol", "1cls", "2cls_5shot", "--method", "knn", "classifier", "unet",
    "--classifier-size", "32", "--unet-size", "32", "--epochs", "1", "--min-steps", "6", "--workers", "0",
]  # fmt: skip
CELLS = 2 * (1 + 2 * 2)  # weights, each with knn, and with two methods and two seeds
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
KEY = ("weights", "category", "protocol", "method", "seed")


def rows(out):
    """All but the times, which differ."""
    content = json.loads((out / "results.json").read_text())
    times = ("seconds", "milliseconds_per_image")
    return [{name: value for name, value in row.items() if name not in times} for row in content["rows"]]


def start(data, out, *launcher):
    """`python -m eval` as a process, or the processes that a launcher makes of it."""
    command = [sys.executable, *launcher, "-m", "eval", "--data", str(data), "--out", str(out), *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return mvtec_category(tmp_path_factory.mktemp("set") / "tile", train=12, normal=8, anomalous=20)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """What one process measures without an interruption."""
    out = tmp_path_factory.mktemp("alone") / "out"
    finish(start(data, out))
    assert len({tuple(row[name] for name in KEY) for row in rows(out)}) == CELLS
    return out


def test_two_processes_give_what_one_gives(data, alone, tmp_path):
    output = finish(start(data, tmp_path / "out", *TORCHRUN))
    assert output.count("report: ") == 1
    assert rows(tmp_path / "out") == rows(alone)
    assert tables_without_times(tmp_path / "out") == tables_without_times(alone)


def tables_without_times(folder):
    """The tables without their last column, milliseconds per image."""
    return re.sub(r"\| [\d.]+( ±[\d.]+)? \|$", "|", (folder / "tables.md").read_text(), flags=re.M)


def test_killed_processes_go_on_where_they_were(data, alone, tmp_path):
    out = tmp_path / "out"
    process = start(data, out, *TORCHRUN)
    deadline = time.monotonic() + 200
    while len(list(out.rglob("cell.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        victim.kill()
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    assert 4 <= len(kept) < CELLS
    finish(start(data, out))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    names = (*KEY, "metric")
    continued, uninterrupted = (sorted(rows(o), key=lambda row: [row[n] for n in names]) for o in (out, alone))
    assert continued == uninterrupted


def test_rendered_defects_can_be_learnt_by_heart(tmp_path):
    arguments = {"train": 10, "test-normal": 10, "anomalies": 12, "size": 96, "seed": 0}
    assert write(tmp_path / "parts", "synthetic.parts", arguments, files)
    category = draw_shots(load_categories(tmp_path / "parts", "2cls_highshot")[0], 6, 0)
    category = replace(category, test=category.train)
    training = Training(classifier_size=64, unet_size=64, epochs=60, min_steps=1, lr=1e-3)
    anomalous = np.array([sample.anomalous for sample in category.test])
    found = {}
    for method in ("classifier", "unet"):
        run = Run("2cls_highshot", method, 0)
        predictor = TwoClassPredictor("random:test_resnet", method, training)
        found[method] = predictor.predict(category, [run], 0, lambda stage, done, of: None)[run]
    assert image_metrics(found["classifier"].scores, anomalous)["image_auroc"].value == 1.0
    assert pixel_metrics(found["unet"].maps, read_masks(category.test, 64))["pixel_auroc"].value > 0.98
