"""Throughput, and metrics in trackers."""

import json
import sys
import time
from pathlib import Path

import pytest

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.loop import pretrain
from train.monitor.progress import Clock


def test_a_tracker_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpdError, match="--tracker trackio is not installed: pip install trackio"):
        pretrain(small_config(write_photos(tmp_path / "photos", 8), tmp_path / "run", tracker="trackio"))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_numbers_of_metrics_jsonl(tmp_path: Path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    pretrain(small_config(write_photos(tmp_path / "photos", 24), out, tracker="tensorboard"))
    events = reader.EventAccumulator(str(out / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines]


def test_images_per_second_count_finished_steps_although_batches_are_taken_ahead():
    clock = Clock(images_per_step=10)
    batches = clock.watch([1, 2, 3])
    next(batches), next(batches)
    clock.count_step()
    time.sleep(0.1)
    assert 10 < clock.read()["images_per_second"] <= 100
