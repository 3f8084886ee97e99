"""From folders to numbers, end to end."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eval.data.datasets import load_categories
from eval.detectors.methods import Settings
from eval.run import evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import DEFECT, SHARED, SIZE, SMALL, mask, mvtec_category, request, rows, save, values, visa_tree


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile")


def test_defect_lands_where_it_is(tile, tmp_path):
    evaluate(request(tile, tmp_path / "out", save_maps=True))
    found = values(tmp_path / "out")
    assert found["image_auroc"] == 1.0
    assert found["pixel_auroc"] > 0.9
    saved = np.load(next((tmp_path / "out").rglob("maps.npz")))
    left, right, top, bottom = DEFECT
    for image, anomaly_map in zip(saved["images"], saved["maps"], strict=True):
        if "spot" in str(image):
            y, x = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
            assert left / SIZE[0] - 0.06 < x / 64 < right / SIZE[0] + 0.06
            assert top / SIZE[1] - 0.06 < y / 64 < bottom / SIZE[1] + 0.06


def test_short_crop_end_to_end(tile, tmp_path):
    evaluate(request(tile, tmp_path / "out", settings=replace(SMALL, resize="short-crop")))
    cropped = values(tmp_path / "out")
    evaluate(request(tile, tmp_path / "other"))
    assert cropped != values(tmp_path / "other")
    assert cropped["image_auroc"] == 1.0
    sizes = {Image.open(path).size for path in (tmp_path / "out").rglob("*-photo.jpg")}
    assert {width / height for width, height in sizes} == {1}


def test_swapped_labels_show(tile, tmp_path):
    (tile / "test" / "good").rename(tile / "test" / "aside")
    (tile / "test" / "spot").rename(tile / "test" / "good")
    (tile / "test" / "aside").rename(tile / "test" / "spot")
    shutil.rmtree(tile / "ground_truth")
    evaluate(request(tile, tmp_path / "out"))
    assert values(tmp_path / "out")["image_auroc"] == 0.0


def test_same_seed_same_numbers(tile, tmp_path):
    for out in ("one", "two"):
        evaluate(request(tile, tmp_path / out, workers=2 if out == "two" else 0))
    assert values(tmp_path / "one") == values(tmp_path / "two")


def test_visa_tree_end_to_end(tmp_path):
    evaluate(request(visa_tree(tmp_path / "visa"), tmp_path / "out", categories=["pcb1"]))
    assert {(r["dataset"], r["category"]) for r in rows(tmp_path / "out")} == {("visa", "pcb1")}
    assert values(tmp_path / "out")["image_auroc"] == 1.0


@pytest.mark.skipif(not (SHARED / "industrial").is_dir(), reason="the real photographs are not here")
def test_real_photographs_and_real_weights(tmp_path):
    weights = f"local-dir:{SHARED}/init/mobilenetv2_100.imagenet1k"
    asked = request(
        SHARED / "industrial",
        tmp_path,
        weights=[weights, "random:mobilenetv2_100"],
        categories=["cookie", "aws_aliens/alien"],
        settings=Settings(image_size=96),
    )
    evaluate(asked)
    for category in ("cookie", "alien"):
        trained = values(tmp_path, weights=weights, category=category)
        untrained = values(tmp_path, weights="random:mobilenetv2_100", category=category)
        assert trained["image_auroc"] > 0.9
        assert trained["image_auroc"] > untrained["image_auroc"]
    cookie = values(tmp_path, weights=weights, category="cookie")
    assert cookie["pixel_auroc"] > 0.85


@pytest.mark.parametrize("protocol", ["1cls", "2cls_highshot"])
def test_a_mask_that_marks_nothing_is_named_before_any_work(tmp_path, protocol):
    """Of the last category, and in 2-class of any part, before weights are loaded and categories measured."""
    for name in ("gear", "tile"):
        mvtec_category(tmp_path / "set" / name, train=20, anomalous=20)
    truth = tmp_path / "set" / "tile" / "ground_truth" / "spot"
    (category,) = load_categories(tmp_path / "set", protocol, ["tile"])
    chosen = next(sample.mask for sample in (*category.train, *category.test) if sample.mask)
    save(mask(value=0), chosen)
    with pytest.raises(SpdError, match=rf"^{truth}/{chosen.name}: .* marks no pixel"):
        evaluate(request(tmp_path / "set", tmp_path / "out", protocols=[protocol], weights=["no such weights"]))
    assert not list((tmp_path / "out").rglob("cell.json"))
