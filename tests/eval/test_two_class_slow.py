"""The 2-class protocols at work: rendered parts, several processes, an interruption, real photographs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from eval.evaluate import Request, evaluate
from eval.finetune import Training
from eval.parts.__main__ import main as render
from tests.eval.helpers import SHARED, mvtec_category

pytestmark = pytest.mark.slow
SMALL = ["--classifier-size", "32", "--unet-size", "32", "--epochs", "1", "--min-steps", "4", "--workers", "0"]
PROTOCOLS = ["--protocol", "1cls", "2cls_highshot", "2cls_5shot", "--method", "knn", "classifier", "unet"]


def rows(out):
    """All but the times, which differ."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads((out / "results.json").read_text())["rows"]]  # fmt: skip  # noqa: E501


def start(*arguments):
    """`python -m eval` with a process group of its own, or what `-m torch.distributed.run` makes of it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def command(data, out):
    weights = ["--weights", "random:test_resnet", "random:test_efficientnet"]
    return ["-m", "eval", *weights, "--data", str(data), "--out", str(out), "--seeds", "2", *PROTOCOLS, *SMALL]


@pytest.fixture
def data(tmp_path):
    for name in ("tile", "screw"):
        mvtec_category(tmp_path / "set" / name, train=12, normal=8, anomalous=20)
    return tmp_path / "set"


def test_two_processes_give_what_one_gives(data, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    process = start(*command(data, alone))
    assert process.wait(300) == 0, process.stderr.read()
    # 1cls: one cell a (category, weights); 2-class: two methods, seeds and protocols.
    assert len({(r["weights"], r["category"], r["protocol"], r["method"], r["seed"]) for r in rows(alone)}) == 36
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command(data, together))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("report: ") == 1
    assert rows(together) == rows(alone)
    assert (together / "tables.md").read_text() == (alone / "tables.md").read_text()


def test_killed_processes_go_on_where_they_were(data, tmp_path):
    out = tmp_path / "out"
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command(data, out))
    deadline = time.monotonic() + 200
    while len(list(out.rglob("cell.json"))) < 7 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    assert 7 <= len(kept) < 36
    again = start(*command(data, out))
    assert again.wait(300) == 0, again.stderr.read()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    fresh = start(*command(data, tmp_path / "fresh"))
    assert fresh.wait(300) == 0
    key = ("weights", "category", "protocol", "method", "seed", "metric")
    continued, uninterrupted = (sorted(rows(o), key=lambda r: [r[k] for k in key]) for o in (out, tmp_path / "fresh"))
    assert continued == uninterrupted


def test_rendered_defects_are_learnt(tmp_path):
    parts = ["--objects", "gear", "--train", "16", "--test-normal", "16", "--anomalies", "32", "--size", "96"]
    assert render(["--to", str(tmp_path / "parts"), *parts]) == 0
    training = Training(classifier_size=96, unet_size=96, epochs=30, min_steps=1, lr=1e-3)
    asked = Request(
        ["random:test_resnet"], tmp_path / "parts", tmp_path / "out", protocols=["2cls_highshot"], training=training,
        workers=0,
    )  # fmt: skip
    evaluate(asked)
    found = {(r["method"], r["metric"]): r["value"] for r in rows(tmp_path / "out")}
    assert found["classifier", "image_auroc"] > 0.9
    assert found["unet", "pixel_auroc"] > 0.9


@pytest.mark.skipif(not (SHARED / "industrial").is_dir(), reason="the real photographs are not here")
def test_pretrained_weights_beat_untrained_ones_on_photographs(tmp_path):
    weights = f"local-dir:{SHARED}/init/mobilenetv2_100.imagenet1k"
    training = Training(classifier_size=96, min_steps=40)
    asked = Request(
        [weights, "random:mobilenetv2_100"], SHARED / "industrial", tmp_path, protocols=["2cls_5shot"],
        methods=["classifier"], categories=["alien"], training=training,
    )  # fmt: skip
    evaluate(asked)
    found = {r["weights"]: r["value"] for r in rows(tmp_path) if r["metric"] == "image_auroc"}
    assert found[weights] > max(0.9, found["random:mobilenetv2_100"])
