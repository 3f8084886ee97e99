"""The anomaly probe finds obvious anomalies, and refuses other data."""

from pathlib import Path

import pytest
import timm
import torch

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.config import ProbeConfig
from train.loop import pretrain
from train.monitor.anomaly_probe import probe_anomalies


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
