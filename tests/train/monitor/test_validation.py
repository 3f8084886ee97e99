"""Measuring during training has no effect on the run."""

import json
from pathlib import Path

from tests.train.helpers import arguments, small_config, write_photos
from train.__main__ import main
from train.loop import pretrain


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
