"""Small inspection data sets with known defects, and tiny weights."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from eval.detectors.methods import Settings
from eval.finetune.training import Training
from eval.run import Request
from spd_weights.errors import SpdError
from spd_weights.release.export import export_backbone

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SPD_SHARED_DATA", ROOT.parent / "shared" / "data"))
ARCH = "test_resnet"
RANDOM = "random:test_resnet"
SMALL = Settings(image_size=64, padim_dims=8)
TINY = Training(classifier_size=32, unet_size=32, epochs=1, min_steps=2)
SIZE = (50, 30)  # width, height of a photograph: not square
DEFECT = (30, 40, 5, 15)  # left, right, top, bottom


def photo(rng: np.random.Generator, defect: tuple[int, int, int, int] | None = None) -> Image.Image:
    """Grey noise; the defect is a white rectangle."""
    pixels = rng.integers(90, 130, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    if defect:
        left, right, top, bottom = defect
        pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


def mask(defect: tuple[int, int, int, int] = DEFECT, value: int = 255) -> Image.Image:
    pixels = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    left, right, top, bottom = defect
    pixels[top:bottom, left:right] = value
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def mvtec_category(folder: Path, train: int = 6, normal: int = 4, anomalous: int = 4, masks: bool = True) -> Path:
    """One category in MVTec AD's layout."""
    rng = np.random.default_rng(0)
    for i in range(train):
        save(photo(rng), folder / "train" / "good" / f"{i:03d}.png")
    for i in range(normal):
        save(photo(rng), folder / "test" / "good" / f"{i:03d}.png")
    for i in range(anomalous):
        save(photo(rng, DEFECT), folder / "test" / "spot" / f"{i:03d}.png")
        if masks:
            save(mask(), folder / "ground_truth" / "spot" / f"{i:03d}_mask.png")
    return folder


def visa_tree(root: Path, objects: tuple[str, ...] = ("pcb1", "candle")) -> Path:
    """VisA's tree as released: masks of class ids, the split as a table."""
    rng = np.random.default_rng(0)
    rows = []
    for name in objects:
        for i in range(8):
            image = save(photo(rng), root / name / "Data" / "Images" / "Normal" / f"{i:04d}.JPG")
            rows.append([name, "train" if i < 5 else "test", "normal", image.relative_to(root).as_posix(), ""])
        for i in range(3):
            image = save(photo(rng, DEFECT), root / name / "Data" / "Images" / "Anomaly" / f"{i:03d}.JPG")
            truth = save(mask(value=1 + i), root / name / "Data" / "Masks" / "Anomaly" / f"{i:03d}.png")
            rows.append(
                [name, "test", "anomaly", image.relative_to(root).as_posix(), truth.relative_to(root).as_posix()]
            )
    write_split(root, rows)
    return root


def write_split(root: Path, rows: list[list[str]]) -> None:
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])


def read_split(root: Path) -> list[list[str]]:
    with (root / "split_csv" / "1cls.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def tiny_export(folder: Path, seed: int = 0, arch: str = ARCH) -> Path:
    """An export of an untrained network, by default a tiny ResNet."""
    torch.manual_seed(seed)
    backbone = timm.create_model(arch, pretrained=False, num_classes=0)
    training = {"architecture": arch, "image_size": 64, "in_chans": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
    return export_backbone(backbone, folder, training)


def request(data: Path, out: Path, **changes) -> Request:
    """A small evaluation."""
    return Request(**{"weights": [RANDOM], "data": data, "out": out, "settings": SMALL, "workers": 0, **changes})


def rows(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())["rows"]


def values(out: Path, **wanted) -> dict[str, float | None]:
    """Values by metric, of the rows with the given fields."""
    return {r["metric"]: r["value"] for r in rows(out) if all(r[name] == value for name, value in wanted.items())}


def refusal(call, *mentions):
    """Check that a call is refused with an error that mentions all these."""
    with pytest.raises(SpdError) as caught:
        call()
    for mention in mentions:
        assert str(mention) in str(caught.value)
