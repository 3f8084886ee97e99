"""What is written of one cell: rows, and maps from which the numbers can be computed again."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from eval import cell
from eval.data.datasets import load_categories
from eval.detectors.methods import Settings
from eval.metrics.metrics import IMAGE_METRICS, PIXEL_METRICS, pixel_metrics
from eval.predictions import Prediction
from eval.report.html import write_report
from eval.run import evaluate
from tests.eval.helpers import mvtec_category, request, rows, tiny_export, values
from tests.eval.metrics.test_pixels import zoomed


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile")


def test_saved_maps_give_the_numbers_again(tile, tmp_path):
    evaluate(request(tile, tmp_path / "out", save_maps=True))
    saved = np.load(next((tmp_path / "out").rglob("maps.npz")))
    assert saved["maps"].dtype == np.float16
    found, pixels = values(tmp_path / "out"), (saved["masks"].ravel(), saved["maps"].astype(np.float32).ravel())
    assert found["image_auroc"] == roc_auc_score(saved["anomalous"], saved["scores"])
    assert found["image_aupr"] == pytest.approx(average_precision_score(saved["anomalous"], saved["scores"]))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(*pixels), abs=1e-4)
    assert found["pixel_aupr"] == pytest.approx(average_precision_score(*pixels), abs=1e-3)
    assert len(saved["images"]) == len(saved["scores"]) == 8


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e7])
def test_saved_maps_of_any_size_keep_their_ranks(tile, tmp_path, size):
    """Patch distances of small features, and logits of a network that is very sure, alike."""
    (category,) = load_categories(tile, "1cls")
    rng = np.random.default_rng(0)
    masks = rng.random((8, 64, 64)) < 0.01
    maps = ((rng.lognormal(size=masks.shape) + 3 * masks) * size).astype(np.float32)
    maps[0] -= 5 * np.float32(size)
    cell._save_maps(tmp_path / "maps.npz", category, Prediction(maps.max(axis=(1, 2)), maps, 0.0), masks)
    saved = np.load(tmp_path / "maps.npz")
    assert saved["maps"].dtype == np.float16
    np.testing.assert_allclose(saved["maps"] * saved["scale"], maps, rtol=2**-11, atol=1e-6 * size)
    again = pixel_metrics(saved["maps"], saved["masks"])
    for name, metric in pixel_metrics(maps, masks).items():
        assert again[name].value == pytest.approx(metric.value, abs=1e-3), name


def test_without_masks_pixel_metrics_are_null_with_a_reason(tmp_path):
    evaluate(request(mvtec_category(tmp_path / "alien", masks=False), tmp_path / "out"))
    for row in rows(tmp_path / "out"):
        if row["metric"] in PIXEL_METRICS:
            assert row["value"] is None
            assert "no masks" in row["reason"]
        else:
            assert row["value"] is not None


def test_rows_hold_what_the_contract_says(tile, tmp_path):
    weights = str(tiny_export(tmp_path / "run" / "export"))
    evaluate(request(tile, tmp_path / "out", weights=[weights], seeds=2))
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content.keys() == {"schema", "created", "environment", "environments", "config", "rows"}
    keys = "weights weights_sha256 dataset category protocol method seed metric value n_train n_test_normal"
    for row in content["rows"]:
        counts = {"regions", "regions_left_out"} if row["metric"] == "pixel_aupro" else set()
        assert (
            row.keys()
            == {*keys.split(), "n_test_anomalous", "seconds", "milliseconds_per_image", "environment"} | counts
        )
        assert (row["n_train"], row["n_test_normal"], row["n_test_anomalous"]) == (6, 4, 4)
        assert (row["weights"], row["dataset"], row["category"]) == (weights, "set", "tile")
        assert len(row["weights_sha256"]) == 64
        assert 0 <= row["value"] <= 1
    assert {(r["seed"], r["metric"]) for r in content["rows"]} == {
        (seed, metric) for seed in (0, 1) for metric in (*IMAGE_METRICS, *PIXEL_METRICS)
    }


def test_native_maps_score_regions_that_vanish_at_the_input_size(tile, tmp_path):
    """At 16 px of 50 x 30, a region of one pixel is lost; at the masks' own size it counts for AUPRO."""
    for path in sorted((tile / "ground_truth" / "spot").glob("*.png")):
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(path)
    aupro = {}
    for size in ("input", "native"):
        settings = Settings(image_size=16, padim_dims=8, map_size=size)
        evaluate(request(tile, tmp_path / size, settings=settings, save_maps=True))
        aupro[size] = next(row for row in rows(tmp_path / size) if row["metric"] == "pixel_aupro")
    assert (aupro["input"]["regions"], aupro["input"]["regions_left_out"]) == (8, 4)
    assert (aupro["native"]["regions"], aupro["native"]["regions_left_out"]) == (8, 0)
    assert "AUPRO leaves out 4 of 8 defect regions" in write_report(tmp_path / "input").read_text()
    assert "AUPRO leaves out" not in write_report(tmp_path / "native").read_text()
    (category,) = load_categories(tile, "1cls")
    saved = np.load(next((tmp_path / "native").rglob("maps.npz")))
    maps = [zoomed(one.astype(np.float32), (30, 50)) for one in saved["maps"]]
    masks = [native(sample) for sample in category.test]
    found = values(tmp_path / "native")
    truth, scores = (np.concatenate([one.ravel() for one in of]) for of in (masks, maps))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=2e-3)


def native(sample):
    """The defect pixels of a test image, as its mask has them."""
    if sample.mask is None:
        return np.zeros((30, 50), bool)
    with Image.open(sample.mask) as image:
        return np.asarray(image) > 0
