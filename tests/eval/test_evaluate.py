"""From folders to numbers: geometry, orientation, and going on where an earlier call stopped."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import eval.run as evaluation
from eval.backbone.features import FEATURE_PRECISIONS, Extractor
from eval.data.datasets import load_categories
from eval.data.images import batches, read_image, read_mask
from eval.finetune.two_class import Finetuner
from eval.metrics.metrics import IMAGE_METRICS, PIXEL_METRICS, pixel_metrics
from eval.protocols import Prediction, Settings
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import DEFECT, SHARED, SIZE, mask, mvtec_category, save, tiny_export, visa_tree

SMALL = Settings(image_size=64, padim_dims=8)
RANDOM = "random:test_resnet"


def request(data, out, **changes):
    return Request(**{"weights": [RANDOM], "data": data, "out": out, "settings": SMALL, "workers": 0, **changes})


def rows(out):
    return json.loads((out / "results.json").read_text())["rows"]


def values(out, **wanted):
    return {r["metric"]: r["value"] for r in rows(out) if all(r[name] == value for name, value in wanted.items())}


def measured(monkeypatch):
    """Which (category, weights) are really measured."""
    calls = []
    original = evaluation.one_class

    def spy(category, extractor, *rest):
        calls.append((category.name, extractor.weights))
        return original(category, extractor, *rest)

    monkeypatch.setattr(evaluation, "one_class", spy)
    return calls


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile")


def test_image_and_mask_keep_the_same_place(tile):
    photo = read_image(next((tile / "test" / "spot").iterdir()), 100)
    mask = read_mask(next((tile / "ground_truth" / "spot").iterdir()), 100)
    bright = photo.min(axis=-1) > 192
    left, right, top, bottom = DEFECT
    expected = [left / SIZE[0], right / SIZE[0], top / SIZE[1], bottom / SIZE[1]]
    for found in (bright, mask):
        ys, xs = np.nonzero(found)
        edges = [xs.min() / 100, (xs.max() + 1) / 100, ys.min() / 100, (ys.max() + 1) / 100]
        assert edges == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("resize", ["square", "short-crop"])
@pytest.mark.parametrize(
    "size",
    [(1284, 1168), (1500, 1000), (1274, 1176), (1342, 1118), (1404, 1070), (1562, 960), (1358, 1104), (1300, 1154)],
)
def test_defect_of_a_visa_sized_picture_lands_where_it_should(tmp_path, size, resize):
    width, height = size
    left, right, top, bottom = 0.4 * width, 0.55 * width, 0.3 * height, 0.6 * height
    pixels = np.zeros((height, width), np.uint8)
    pixels[round(top) : round(bottom), round(left) : round(right)] = 255
    path = tmp_path / "defect.bmp"
    Image.fromarray(pixels).save(path)
    seen = (width, height) if resize == "square" else (min(size) * 224 / 256,) * 2
    sides = ((left, width, seen[0]), (right, width, seen[0]), (top, height, seen[1]), (bottom, height, seen[1]))
    expected = [(end - (whole - part) / 2) / part for end, whole, part in sides]
    for found in (read_image(path, 224, resize)[..., 0] > 127, read_mask(path, 224, resize)):
        ys, xs = np.nonzero(found)
        edges = np.array([xs.min(), xs.max() + 1, ys.min(), ys.max() + 1]) / 224
        np.testing.assert_allclose(edges, expected, atol=1 / 224)


def test_short_crop_is_resize_and_centre_crop(tmp_path):
    path = tmp_path / "smooth.bmp"
    ys, xs = np.mgrid[0:96, 0:150]
    Image.fromarray((127 + 60 * np.sin(xs / 9) + 60 * np.cos(ys / 7)).astype(np.uint8)).save(path)
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((400, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((88, 16, 312, 240)), np.int16)
    assert np.abs(read_image(path, 224, "short-crop") - expected).max() <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_the_order(tile, workers):
    paths = sorted((tile / "train" / "good").iterdir())
    stacked = np.concatenate([b.numpy() for b in batches(paths, 32, 4, workers)])
    expected = np.stack([read_image(path, 32).transpose(2, 0, 1) for path in paths])
    assert np.array_equal(stacked, expected)


def test_bfloat16_features_are_nearly_the_same():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    single, half = (Extractor(RANDOM, 64, precision=precision)(images) for precision in FEATURE_PRECISIONS)
    for a, b in zip(single, half, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.03 * a.norm()


def test_damaged_image_in_a_worker_is_named(tile):
    image = tile / "train" / "good" / "003.png"
    image.write_bytes(image.read_bytes()[:900])
    with pytest.raises(SpdError, match=r"^\S*003.png: damaged"):
        list(batches(sorted(image.parent.iterdir()), 32, 2, workers=1))


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
    evaluation._save_maps(tmp_path / "maps.npz", category, Prediction(maps.max(axis=(1, 2)), maps, 0.0), masks)
    saved = np.load(tmp_path / "maps.npz")
    assert saved["maps"].dtype == np.float16
    np.testing.assert_allclose(saved["maps"] * saved["scale"], maps, rtol=2**-11, atol=1e-6 * size)
    again = pixel_metrics(saved["maps"], saved["masks"])
    for name, metric in pixel_metrics(maps, masks).items():
        assert again[name].value == pytest.approx(metric.value, abs=1e-3), name


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


def test_rows_hold_what_the_contract_says(tile, tmp_path):
    weights = str(tiny_export(tmp_path / "run" / "export"))
    evaluate(request(tile, tmp_path / "out", weights=[weights], seeds=2))
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content.keys() == {"schema", "created", "environment", "config", "rows"}
    keys = "weights weights_sha256 dataset category protocol method seed metric value n_train n_test_normal"
    for row in content["rows"]:
        assert row.keys() == {*keys.split(), "n_test_anomalous", "seconds"}
        assert (row["n_train"], row["n_test_normal"], row["n_test_anomalous"]) == (6, 4, 4)
        assert (row["weights"], row["dataset"], row["category"]) == (weights, "set", "tile")
        assert len(row["weights_sha256"]) == 64
        assert 0 <= row["value"] <= 1
    assert {(r["seed"], r["metric"]) for r in content["rows"]} == {
        (seed, metric) for seed in (0, 1) for metric in (*IMAGE_METRICS, *PIXEL_METRICS)
    }


def test_without_masks_pixel_metrics_are_null_with_a_reason(tmp_path):
    evaluate(request(mvtec_category(tmp_path / "alien", masks=False), tmp_path / "out"))
    for row in rows(tmp_path / "out"):
        if row["metric"] in PIXEL_METRICS:
            assert row["value"] is None
            assert "no masks" in row["reason"]
        else:
            assert row["value"] is not None


def test_same_seed_same_numbers(tile, tmp_path):
    for out in ("one", "two"):
        evaluate(request(tile, tmp_path / out, workers=2 if out == "two" else 0))
    assert values(tmp_path / "one") == values(tmp_path / "two")


def test_finished_cells_are_kept_and_new_ones_added(tmp_path, monkeypatch):
    data, out = tmp_path / "set", tmp_path / "out"
    mvtec_category(data / "tile")
    calls = measured(monkeypatch)
    evaluate(request(data, out))
    first = rows(out)
    mvtec_category(data / "screw")
    evaluate(request(data, out, weights=[RANDOM, "random:test_vit"]))
    assert calls == [("tile", RANDOM), ("screw", RANDOM), ("screw", "random:test_vit"), ("tile", "random:test_vit")]
    assert rows(out)[: len(first)] == first
    calls.clear()
    evaluate(request(data, out, weights=[RANDOM, "random:test_vit"]))
    assert calls == []


def test_interruption_loses_one_cell_at_most(tmp_path, monkeypatch):
    data, out = tmp_path / "set", tmp_path / "out"
    mvtec_category(data / "a")
    broken = mvtec_category(data / "b") / "test" / "spot" / "003.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:900])
    with pytest.raises(SpdError, match=r"003\.png"):
        evaluate(request(data, out))
    assert {row["category"] for row in rows(out)} == {"a"}
    broken.write_bytes(content)
    calls = measured(monkeypatch)
    evaluate(request(data, out))
    assert calls == [("b", RANDOM)]
    assert not [path for path in out.rglob(".*")]


def test_changed_weights_or_data_are_measured_again(tile, tmp_path, monkeypatch):
    out, run = tmp_path / "out", tmp_path / "run"
    tiny_export(run / "export", seed=0)
    evaluate(request(tile, out, weights=[str(run)]))
    before = rows(out)
    calls = measured(monkeypatch)
    shutil.rmtree(run)
    tiny_export(run / "export", seed=1)
    evaluate(request(tile, out, weights=[str(run)]))
    (tile / "test" / "good" / "000.png").unlink()
    evaluate(request(tile, out, weights=[str(run)]))
    assert len(calls) == 2
    after = rows(out)
    assert len(after) == len(before)
    assert {row["n_test_normal"] for row in after} == {3}
    assert not {row["weights_sha256"] for row in after} & {row["weights_sha256"] for row in before}


def test_other_settings_need_another_folder(tile, tmp_path):
    evaluate(request(tile, tmp_path / "out"))
    before = rows(tmp_path / "out")
    with pytest.raises(SpdError, match="image_size = 64, not 32"):
        evaluate(request(tile, tmp_path / "out", settings=Settings(image_size=32, padim_dims=8)))
    assert rows(tmp_path / "out") == before


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
def test_a_mask_that_marks_nothing_is_named_before_any_work(tmp_path, monkeypatch, protocol):
    """Of the last category, and in 2-class of any part: the categories before it are not measured in vain."""
    for name in ("gear", "tile"):
        mvtec_category(tmp_path / "set" / name, train=20, anomalous=20)
    truth = tmp_path / "set" / "tile" / "ground_truth" / "spot"
    (category,) = load_categories(tmp_path / "set", protocol, ["tile"])
    chosen = next(sample.mask for sample in (*category.train, *category.test) if sample.mask)
    save(mask(value=0), chosen)
    monkeypatch.setattr(Extractor, "__init__", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setattr(Finetuner, "__init__", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(SpdError, match=rf"^{truth}/{chosen.name}: .* marks no pixel"):
        evaluate(request(tmp_path / "set", tmp_path / "out", protocols=[protocol]))
    assert not list((tmp_path / "out").rglob("cell.json"))
