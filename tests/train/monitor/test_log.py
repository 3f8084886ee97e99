"""Metrics in trackers."""

import json
import sys
from pathlib import Path

import pytest

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.loop import pretrain


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
