"""Exact detection and localisation metrics: no histograms, no sampled thresholds, correct for ties."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.masks import NativeMasks
from .pixels import PixelRanking
from .ranking import (
    Ranking,
    average_precision,
    f1_max,
    log_roc_area,
    precision_recall_trapezoid,
    rank,
    roc_area,
)

AUPRO_FPR_LIMIT = 0.3
AUPIMO_FPR_RANGE = (1e-5, 1e-4)

_OF_IMAGES = {
    "image_auroc": roc_area,
    "image_aupr": average_precision,
    "image_aupr_trapezoid": precision_recall_trapezoid,
    "image_f1max": f1_max,
}
_OF_PIXELS = {
    "pixel_auroc": roc_area,
    "pixel_aupr": average_precision,
    "pixel_aupr_trapezoid": precision_recall_trapezoid,
    "pixel_f1max": f1_max,
}
_OF_ANOMALOUS_IMAGES = {
    "anomalous_only_pixel_auroc": roc_area,
    "anomalous_only_pixel_aupr": average_precision,
}
IMAGE_METRICS = tuple(_OF_IMAGES)
PIXEL_METRICS = (*_OF_PIXELS, "pixel_aupro", "pixel_aupimo", *_OF_ANOMALOUS_IMAGES)

# Every metric of results.json: its title in tables, in the order in which tables show them.
TITLES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AP",
    "image_aupr_trapezoid": "image AU-PR (trapezoid)",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AP",
    "pixel_aupr_trapezoid": "pixel AU-PR (trapezoid)",
    "pixel_f1max": "pixel F1max",
    "pixel_aupro": "pixel AUPRO",
    "pixel_aupimo": "pixel AUPIMO",
    "anomalous_only_pixel_auroc": "pixel AUROC (anomalous images)",
    "anomalous_only_pixel_aupr": "pixel AP (anomalous images)",
    "pixel_auroc_spotdiff": "pixel AUROC (spot-diff)",
    "pixel_aupr_spotdiff": "pixel AU-PR (spot-diff)",
    "pixel_f1max_spotdiff": "pixel F1max (spot-diff)",
}


class Metric(NamedTuple):
    """A value in [0, 1], or None with the reason why it is undefined."""

    value: float | None
    reason: str | None = None


def image_metrics(scores: np.ndarray, anomalous: np.ndarray) -> dict[str, Metric]:
    """Compute detection metrics over the images of a test set.

    Args:
        scores: Anomaly scores, higher is more anomalous; floating, finite, shape [N].
        anomalous: The truth, bool, shape [N].

    Returns:
        `image_auroc` (Mann-Whitney; ties count one half), `image_aupr` (average precision),
        `image_aupr_trapezoid` (area under the precision-recall curve by trapezoids, the AU-PR of VisA's authors)
        and `image_f1max` (the best F1 of all thresholds). Undefined with a reason if a class is missing.
    """
    if anomalous.all() or not anomalous.any():
        missing = "normal" if anomalous.all() else "anomalous"
        return undefined(IMAGE_METRICS, f"the test set has no {missing} image")
    ranking = rank(scores[anomalous], scores[~anomalous])
    return {name: Metric(metric(ranking)) for name, metric in _OF_IMAGES.items()}


def pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, Metric]:
    """Compute localisation metrics over the pixels of all test images, including normal images.

    The arrays may be memory-mapped; beyond them, memory depends on the number of defect pixels and not on the
    number of images.

    Args:
        maps: Anomaly maps, higher is more anomalous; floating, finite, shape [N, H, W].
        masks: Defect pixels, bool, shape [N, H, W].

    Returns:
        The metrics of `metrics_of_pixels`.
    """
    return metrics_of_pixels(rank_pixels(maps, masks))


def rank_pixels(maps: np.ndarray, masks: np.ndarray | NativeMasks, anomalous: np.ndarray | None = None) -> PixelRanking:
    """Rank all pixels for `metrics_of_pixels`.

    Args:
        maps: Anomaly maps, higher is more anomalous; floating, finite, shape [N, H, W].
        masks: Defect pixels, bool, each of any size; see `maps_at_masks`.
        anomalous: Which images are anomalous, bool [N]; by default, those with a defect pixel.
    """
    pixels = PixelRanking()
    for anomaly_map, mask in maps_at_masks(maps, masks):
        if mask.any():
            pixels.add_defects(anomaly_map, mask)
    labels = [None] * len(masks) if anomalous is None else anomalous.tolist()
    for (anomaly_map, mask), label in zip(maps_at_masks(maps, masks), labels, strict=True):
        pixels.add_background(anomaly_map, mask, label)
    return pixels


def maps_at_masks(maps: np.ndarray, masks: np.ndarray | NativeMasks) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pair each map with its mask, and resize it to the mask's size: bilinear, pixel centres aligned."""
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if anomaly_map.shape != mask.shape:
            whole = Image.fromarray(np.asarray(anomaly_map, np.float32))
            anomaly_map = np.asarray(whole.resize(mask.shape[::-1], Image.Resampling.BILINEAR))
        yield anomaly_map, mask


def metrics_of_pixels(pixels: PixelRanking) -> dict[str, Metric]:
    """Compute localisation metrics from ranked pixels.

    Returns:
        Over the pixels of all images: `pixel_auroc`, `pixel_aupr` (average precision), `pixel_aupr_trapezoid` and
        `pixel_f1max`. Over the pixels of anomalous images: `anomalous_only_pixel_auroc` and
        `anomalous_only_pixel_aupr`. `pixel_aupro`: the covered fraction of each 8-connected defect region, averaged
        over the regions, as a function of the false positive rate over all normal pixels; its area up to a rate of
        0.3, divided by 0.3 (Bergmann et al., MVTec AD, section 6). `pixel_aupimo`: the recall inside each image,
        averaged over the images with a defect, as a function of the false positive rate over normal images only;
        its mean over the logarithm of rates from 1e-5 to 1e-4 (Bertoldo et al., AUPIMO).
    """
    if not pixels.defects or not pixels.background:
        missing = "defect" if not pixels.defects else "normal"
        return undefined(PIXEL_METRICS, f"the test masks have no {missing} pixel")
    everywhere = pixels.everywhere()
    found = {name: Metric(metric(everywhere)) for name, metric in _OF_PIXELS.items()}
    found["pixel_aupro"] = Metric(roc_area(pixels.regions(), AUPRO_FPR_LIMIT))
    found["pixel_aupimo"] = _aupimo(pixels.images_against_normal())
    found |= _of_anomalous_images(pixels.in_anomalous_images())
    return {name: found[name] for name in PIXEL_METRICS}


def in_table_order(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics that have a title, each once, in the order of `TITLES`."""
    present = set(metrics)
    return tuple(metric for metric in TITLES if metric in present)


def undefined(names: tuple[str, ...], reason: str) -> dict[str, Metric]:
    """Make the given metrics undefined, all for the same reason."""
    return dict.fromkeys(names, Metric(None, reason))


def _aupimo(ranking: Ranking) -> Metric:
    if not ranking.negatives:
        return Metric(None, "no test image is free of defects")
    return Metric(log_roc_area(ranking, *AUPIMO_FPR_RANGE))


def _of_anomalous_images(ranking: Ranking) -> dict[str, Metric]:
    if not ranking.negatives:
        return undefined(tuple(_OF_ANOMALOUS_IMAGES), "the images with a defect have no normal pixel")
    return {name: Metric(metric(ranking)) for name, metric in _OF_ANOMALOUS_IMAGES.items()}
