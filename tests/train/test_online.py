"""Measuring while training: right, and without an effect on the run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from spd_weights.errors import SpdError
from tests.train.helpers import arguments, small_config, write_photos
from train.__main__ import main
from train.config import ProbeConfig
from train.loop import pretrain
from train.monitor.online import curves, knn_top1, probe_anomalies


def test_nearest_neighbours_vote_as_scikit_learns_do():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16))
    labels = rng.integers(0, 5, 200)
    features = centres[labels] + rng.normal(size=(200, 16)) * 1.5
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for i in range(200):  # each against all others
        others = np.arange(200) != i
        theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2 - 1) / 0.07), algorithm="brute")
        right += theirs.fit(unit[others], labels[others]).predict(unit[[i]])[0] == labels[i]
    assert 0.3 < right / 200 < 0.95
    assert knn_top1(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(right / 200)


@pytest.mark.parametrize("values", [5, 1000])
def test_curves_are_scikit_learns_with_ties_and_without(values: int):
    rng = np.random.default_rng(values)
    labels = rng.random(500) < 0.2
    scores = (rng.integers(0, values, 500) + labels * values // 3).astype(np.float32)
    auroc, ap = curves(torch.from_numpy(scores), torch.from_numpy(labels))
    assert auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert ap == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey parts, some with a bright spot where the mask is."""
    folder = tmp_path_factory.mktemp("parts") / "part"
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 8), ("test/good", 5), ("test/spot", 5)):
        (folder / place).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)
            if place == "test/spot":
                mask = np.zeros((64, 64), np.uint8)
                top, left = rng.integers(8, 44, 2)
                mask[top : top + 12, left : left + 12] = 255
                image[mask > 0] = 255
                (folder / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"ground_truth/spot/{i}_mask.png")
            Image.fromarray(image).save(folder / place / f"{i}.png")
    return folder.parent


def test_obvious_anomalies_are_found_and_where(parts: Path):
    torch.manual_seed(0)
    backbone = timm.create_model("resnet18", num_classes=0).eval()
    mean, std = (torch.full((3, 1, 1), value) for value in (0.45, 0.22))
    found = probe_anomalies(backbone, parts, 64, mean, std)
    assert found["probe_image_auroc"] == 1.0
    assert found["probe_pixel_ap"] > 0.3  # the spots are 3.5 % of the defective images, and half as many of all
    assert probe_anomalies(backbone, parts / "part", 64, mean, std) == found


def test_what_is_no_such_set_is_said(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 8)
    with pytest.raises(SpdError, match="MVTec AD's layout"):
        pretrain(small_config(photos, tmp_path / "run", probe=ProbeConfig(anomaly=photos)))


def test_probes_come_when_asked_for_and_change_nothing(parts: Path, tmp_path: Path):
    photos, val = write_photos(tmp_path / "photos", 24), tmp_path / "val"
    for name, seed in (("a", 1), ("b", 2)):
        write_photos(val / name, 6, seed=seed)
    plain = pretrain(small_config(photos, tmp_path / "plain"))
    options = arguments(photos, tmp_path / "probed", "--data.val", str(val), "--probe.anomaly", str(parts))
    assert main([*options, "--probe.every", "2"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "probed/metrics.jsonl").read_text().splitlines()]
    probes = [line for line in lines if "val_knn_top1" in line]
    assert [line["step"] for line in probes] == [6]  # two epochs of three steps
    assert set(probes[0]) == {"step", "val_knn_top1", "probe_image_auroc", "probe_pixel_ap"}
    weights = [(folder / "model.safetensors").read_bytes() for folder in (plain, tmp_path / "probed/export")]
    assert weights[0] == weights[1]


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


def test_a_plan_reckons_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 24)
    assert main(arguments(photos, tmp_path / "run", "--plan", "--optim.epochs", "50")) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["steps"].startswith("150 of 8 images")
    assert said["passes"].startswith("4 ")  # two strong views, a positive, a negative
    assert not (tmp_path / "run").exists()
