"""Pixels ranked image by image: in any order, of any size, and which images count as normal."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import eval.metrics.pixels
from eval.metrics.metrics import metrics_of_pixels, pixel_metrics, rank_pixels
from eval.metrics.pixels import PixelRanking
from eval.metrics.spotdiff import spot_diff_metrics


def test_small_buffers_and_float16_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(12, 20, 20)).astype(np.float16)
    masks = rng.random(maps.shape) < 0.05
    masks[:5] = False
    whole = pixel_metrics(maps.astype(np.float32), masks)
    monkeypatch.setattr(eval.metrics.pixels, "_BUFFERED", 300)
    streamed = PixelRanking()
    for index in rng.permutation(12):
        streamed.add_defects(maps[index], masks[index])
    for index in rng.permutation(12):
        streamed.add_background(maps[index], masks[index])
    assert {n: m.value for n, m in metrics_of_pixels(streamed).items()} == pytest.approx(
        {n: m.value for n, m in whole.items()}, abs=1e-12
    )
    with pytest.raises(ValueError, match="before"):
        streamed.add_defects(maps[0], masks[0])


def test_aupimo_sees_only_normal_images():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 200, 200)).astype(np.float32)  # 40,000 pixels in each normal image
    masks = np.zeros(maps.shape, bool)
    masks[2, :10, :10] = True
    top = np.sort(maps[:2].ravel())[::-1]
    maps[2][~masks[2]] = 5  # false alarms in the anomalous image itself do not count
    maps[2, :10, :10] = 0
    maps[2, 0, :5] = top[0] + 1  # found at any rate
    maps[2, 0, 5:10] = (top[3] + top[4]) / 2  # four of 80,000 pixels above: from a rate of 5e-5 on
    expected = (5 + 5 * np.log(1e-4 / 5e-5) / np.log(10)) / 100
    assert pixel_metrics(maps, masks)["pixel_aupimo"].value == pytest.approx(expected, abs=1e-9)


def test_an_anomaly_whose_defect_is_out_of_view_is_no_normal_image():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 200, 200)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[2, :10, :10] = True
    maps[2, :10, :10] += 2
    maps[3] += 5  # of an anomalous image cut by --resize short-crop
    anomalous = np.array([False, False, True, True])
    found = metrics_of_pixels(rank_pixels(maps, masks, anomalous))
    assert found["pixel_aupimo"] == pixel_metrics(maps[:3], masks[:3])["pixel_aupimo"]
    assert found["pixel_aupimo"].value == pytest.approx(1)
    assert found["pixel_auroc"] == pixel_metrics(maps, masks)["pixel_auroc"]
    expected = roc_auc_score(masks[2:].ravel(), maps[2:].ravel())
    assert found["anomalous_only_pixel_auroc"].value == pytest.approx(expected)


def test_maps_are_resized_to_masks_of_any_size():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 8, 8)).astype(np.float32)
    masks = [np.zeros((16, 24), bool), np.zeros((8, 8), bool), np.zeros((40, 10), bool)]
    masks[0][3:5, 7:9] = masks[2][20:30, 2:4] = True
    found = metrics_of_pixels(rank_pixels(maps, masks))
    large = [zoomed(one, mask.shape) for one, mask in zip(maps, masks, strict=True)]
    scores, truth = (np.concatenate([one.ravel() for one in of]) for of in (large, masks))
    assert found["pixel_auroc"].value == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert found["pixel_aupr"].value == pytest.approx(average_precision_score(truth, scores), abs=1e-5)

    same = [spot_diff_metrics(one, truth) for one, truth in ((maps, masks), squeezed(large, masks))]
    for name, metric in same[0].items():
        assert metric.value == pytest.approx(same[1][name].value, abs=2e-4)


def squeezed(maps, masks):
    """The same pixels as one image with one row, because the metrics do not depend on where pixels are."""
    return [np.concatenate([np.ravel(one) for one in of])[None, None] for of in (maps, masks)]


def zoomed(anomaly_map, shape):
    """Bilinear interpolation at pixel centres, one axis after the other, borders repeated."""
    for axis, size in enumerate(shape):
        old = anomaly_map.shape[axis]
        at = (np.arange(size) + 0.5) * old / size - 0.5
        anomaly_map = np.apply_along_axis(
            lambda line, at=at, old=old: np.interp(at, np.arange(old), line), axis, anomaly_map
        )
    return anomaly_map
