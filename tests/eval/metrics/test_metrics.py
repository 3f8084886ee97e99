"""Metrics against scikit-learn and against naive loops, with ties."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from eval.metrics.metrics import (
    IMAGE_METRICS,
    PIXEL_METRICS,
    image_metrics,
    pixel_metrics,
)
from eval.metrics.spotdiff import SPOT_DIFF_METRICS, spot_diff_metrics

# Few distinct values, so that most scores are tied with others.
TIED = st.integers(-3, 3).map(float)
SPREAD = st.floats(-1e6, 1e6, width=32)


@st.composite
def ranked(draw):
    count = draw(st.integers(2, 60))
    values = draw(st.sampled_from([TIED, SPREAD]))
    scores = draw(arrays.arrays(np.float32, count, elements=values))
    truth = draw(arrays.arrays(bool, count))
    assume(truth.any() and not truth.all())
    return scores, truth


@st.composite
def localised(draw):
    shape = (draw(st.integers(1, 3)), 7, 6)
    maps = draw(arrays.arrays(np.float32, shape, elements=draw(st.sampled_from([TIED, SPREAD]))))
    masks = draw(arrays.arrays(bool, shape, elements=st.booleans()))
    assume(masks.any() and not masks.all())
    return maps, masks


def naive_aupro(maps, masks, limit=0.3):
    """Every distinct score as a threshold, every region by hand."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == k) for k in range(1, count + 1)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        predicted = maps >= threshold
        rate = predicted[~masks].sum() / (~masks).sum()
        curve.append((rate, float(np.mean([predicted[i][region].mean() for i, region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def naive_aupimo(maps, masks):
    """Recall inside each image at each false positive rate, on a fine grid of rates; None without a normal image."""
    normal = np.sort(maps[~masks.any(axis=(1, 2))].ravel())[::-1]
    if not normal.size:
        return None
    rates = np.geomspace(1e-5, 1e-4, 20_001)
    recalls = []
    for scores in (m[mask] for m, mask in zip(maps, masks, strict=True) if mask.any()):
        recall = np.zeros(rates.size)
        for score in scores:
            above, tied = np.sum(normal > score) / normal.size, np.sum(normal == score) / normal.size
            recall += np.clip((rates - above) / tied, 0, 1) if tied else rates >= above
        recalls.append(recall / scores.size)
    at = np.mean(recalls, axis=0)
    return float(np.mean((at[1:] + at[:-1]) / 2))


def official(maps, masks):
    """The authors' formula, threshold by threshold."""
    defects = maps[masks]
    thresholds = [*np.percentile(defects, np.linspace(100, 0, 100)), *np.linspace(defects.max(), defects.min(), 100)]
    # np.array, as theirs: the ends take part in the common dtype of all 202.
    ends = [maps.min() - maps.dtype.type(1e-8), maps.max() + maps.dtype.type(1e-8)]
    fpr, tpr, precision, f1 = [], [], [], []
    for threshold in np.flip(np.sort(np.concatenate([thresholds[:100], thresholds[100:], ends]))):
        predicted = maps > threshold
        tp, fp = (predicted & masks).sum(), (predicted & ~masks).sum()
        fpr.append(fp / (~masks).sum())
        tpr.append(tp / masks.sum())
        precision.append(tp / (tp + fp) if tp + fp else 1.0)
        f1.append(2 * precision[-1] * tpr[-1] / (precision[-1] + tpr[-1]) if tp else 0.0)
    return [round(auc(fpr, tpr), 4), round(auc(tpr, precision), 4), max(f1)]


@given(localised())
def test_spot_diff_is_the_authors_formula(case):
    found = spot_diff_metrics(*case)
    assert [found[name].value for name in SPOT_DIFF_METRICS] == pytest.approx(official(*case), abs=1e-9)


def test_spot_diff_loses_the_pixels_tied_at_a_float32_minimum():
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(4, 50, 50)), 0).astype(np.float32) + 1
    masks = rng.random(maps.shape) < 0.02
    maps[masks] = 1.2 + 2 * rng.random(masks.sum())
    exact, theirs = pixel_metrics(maps, masks), spot_diff_metrics(maps, masks)
    assert theirs["pixel_auroc_spotdiff"].value < exact["pixel_auroc"].value - 0.3
    in_double = spot_diff_metrics(maps.astype(np.float64), masks)
    assert in_double["pixel_auroc_spotdiff"].value == pytest.approx(exact["pixel_auroc"].value, abs=0.01)


def test_trapezoid_flatters_few_distinct_scores():
    maps, masks = np.zeros((1, 100, 100), np.float32), np.zeros((1, 100, 100), bool)
    masks[0, 0] = True  # 1 % of the pixels; 60 % of them found, with 1 % of the others
    maps[0, 0, :60] = 1
    maps[0, 1, :99] = 1
    found = pixel_metrics(maps, masks)
    assert found["pixel_aupr"].value == pytest.approx(0.2304, abs=5e-4)
    assert found["pixel_aupr_trapezoid"].value == pytest.approx(0.491, abs=5e-3)


@given(ranked())
def test_image_metrics_equal_scikit_learn(case):
    scores, truth = case
    precision, recall, _ = precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nanmax(2 * precision * recall / (precision + recall))
    found = image_metrics(scores, truth)
    assert found["image_auroc"].value == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found["image_aupr"].value == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert found["image_f1max"].value == pytest.approx(f1, abs=1e-9)
    assert found["image_aupr_trapezoid"].value == pytest.approx(auc(recall, precision), abs=1e-9)


@given(localised())
def test_pixel_metrics_equal_scikit_learn_and_a_loop(case):
    maps, masks = case
    found = pixel_metrics(maps, masks)
    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    f1 = max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r)
    assert found["pixel_aupr_trapezoid"].value == pytest.approx(auc(recall, precision), abs=1e-9)
    assert found["pixel_f1max"].value == pytest.approx(f1, abs=1e-9)
    assert found["pixel_aupimo"].value == pytest.approx(naive_aupimo(maps, masks), abs=1e-5)
    chosen = masks.any(axis=(1, 2))
    if not masks[chosen].all():
        truth, scores = masks[chosen].ravel(), maps[chosen].ravel()
        values = [found[f"anomalous_only_pixel_{name}"].value for name in ("auroc", "aupr")]
        assert values == pytest.approx([roc_auc_score(truth, scores), average_precision_score(truth, scores)], abs=1e-9)
    assert found["pixel_auroc"].value == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert found["pixel_aupr"].value == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert found["pixel_aupro"].value == pytest.approx(naive_aupro(maps, masks), abs=1e-9)


@given(ranked())
def test_reversed_scores_mirror_the_auroc(case):
    scores, truth = case
    found, reversed_ = image_metrics(scores, truth), image_metrics(-scores, truth)
    assert found["image_auroc"].value + reversed_["image_auroc"].value == pytest.approx(1, abs=1e-9)


def test_high_scores_mean_anomalous():
    scores, truth = np.array([0.1, 0.2, 0.8, 0.9], np.float32), np.array([False, False, True, True])
    assert [metric.value for metric in image_metrics(scores, truth).values()] == [1.0, 1.0, 1.0, 1.0]
    worst = image_metrics(scores, ~truth)
    assert worst["image_auroc"].value == 0.0
    assert worst["image_aupr"].value == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_one_defect_pixel_among_many():
    maps = np.random.default_rng(0).normal(size=(3, 40, 40)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[1, 5, 6] = True
    above = int((maps > maps[1, 5, 6]).sum())
    found = pixel_metrics(maps, masks)
    assert found["pixel_aupr"].value == pytest.approx(1 / (above + 1))
    assert found["pixel_auroc"].value == pytest.approx(1 - above / (maps.size - 1))


def test_constant_maps_are_chance():
    maps = np.full((2, 10, 10), 7.5, np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[0, :2] = True
    values = {name: metric.value for name, metric in pixel_metrics(maps, masks).items()}
    expected = {"pixel_auroc": 0.5, "pixel_aupr": 0.1, "pixel_aupro": 0.15, "pixel_f1max": 2 * 0.1 / 1.1}
    expected |= {"pixel_aupimo": (1e-4 - 1e-5) / np.log(10), "anomalous_only_pixel_auroc": 0.5}
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_regions_have_equal_weight_and_diagonal_pixels_join():
    maps = np.zeros((1, 8, 8), np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[0, :4, :4] = True  # sixteen pixels, found
    masks[0, 6, 6] = masks[0, 7, 7] = True  # one region of two pixels, half found
    maps[0, :4, :4] = maps[0, 6, 6] = 1
    # Covered on average (1 + 1/2) / 2 with no false positive, then a diagonal to (1, 1).
    assert pixel_metrics(maps, masks)["pixel_aupro"].value == pytest.approx((0.75 + (0.75 + 0.25 * 0.3)) / 2)


def test_float32_resolution_is_enough():
    base = np.float32(1e4)
    scores = base + np.arange(2000, dtype=np.float32) * np.spacing(base)
    truth = np.arange(2000) >= 1000
    assert image_metrics(scores, truth)["image_auroc"].value == 1.0


@pytest.mark.parametrize(("truth", "missing"), [(True, "normal"), (False, "anomalous")])
def test_undefined_image_metrics_say_why(truth, missing):
    found = image_metrics(np.arange(3.0), np.full(3, truth))
    assert set(found) == set(IMAGE_METRICS)
    assert all(metric.value is None and missing in metric.reason for metric in found.values())


def test_undefined_pixel_metrics_say_why():
    found = pixel_metrics(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool))
    assert set(found) == set(PIXEL_METRICS)
    assert all(metric.value is None and "defect" in metric.reason for metric in found.values())


def test_nan_is_refused():
    truth = np.array([True, False])
    for scores in (np.array([0.1, np.nan]), np.array([np.inf, 0.1])):
        with pytest.raises(ValueError, match="finite"):
            image_metrics(scores, truth)
        with pytest.raises(ValueError, match="finite"):
            pixel_metrics(scores[None, None], truth[None, None])
