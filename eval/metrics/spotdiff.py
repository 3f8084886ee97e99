"""Localisation metrics as VisA's authors compute them, for comparison with their numbers.

Reimplements `compute_localization_metrics` of github.com/amazon-science/spot-diff, utils/metrics.py: 202 thresholds
instead of all, trapezoids, four decimals. Its quirks are kept on purpose; `eval.metrics.metrics` has the exact metrics.
At image level, its AU-PR is our `image_aupr_trapezoid` and its AUROC is exact.
"""

import numpy as np

from ..data.masks import NativeMasks
from .metrics import Metric, maps_at_masks, undefined

SPOT_DIFF_METRICS = ("pixel_auroc_spotdiff", "pixel_aupr_spotdiff", "pixel_f1max_spotdiff")
_THRESHOLDS = 100  # of each kind


def spot_diff_metrics(maps: np.ndarray, masks: np.ndarray | NativeMasks) -> dict[str, Metric]:
    """Compute AUROC, AU-PR and the best F1 over the pixels of all test images from 202 thresholds.

    Args:
        maps: Anomaly maps, higher is more anomalous; floating, finite, shape [N, H, W].
        masks: Defect pixels, bool, each of any size; see `eval.metrics.metrics.maps_at_masks`.
    """
    thresholds = _thresholds(maps, masks)
    if thresholds is None:
        return undefined(SPOT_DIFF_METRICS, "the test masks have no defect pixel")
    defects = background = np.zeros(thresholds.size + 1, np.int64)
    for anomaly_map, mask in maps_at_masks(maps, masks):
        # The original tests `score > threshold`, so a score passes all thresholds strictly below it.
        passed = np.searchsorted(thresholds, anomaly_map)
        defects = defects + np.bincount(passed[mask], minlength=thresholds.size + 1)
        background = background + np.bincount(passed[~mask], minlength=thresholds.size + 1)
    if not background.any():
        return undefined(SPOT_DIFF_METRICS, "the test masks have no normal pixel")
    true = np.cumsum(defects[:0:-1])  # highest threshold first
    false = np.cumsum(background[:0:-1])
    recall, fpr = true / defects.sum(), false / background.sum()
    precision = np.divide(true, true + false, out=np.ones(true.size), where=true + false > 0)
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros(true.size), where=true > 0)
    values = (round(_trapezoid(fpr, recall), 4), round(_trapezoid(recall, precision), 4), float(f1.max()))
    return dict(zip(SPOT_DIFF_METRICS, map(Metric, values), strict=True))


def _thresholds(maps: np.ndarray, masks: np.ndarray | NativeMasks) -> np.ndarray | None:
    """Percentiles and equal steps of the defect pixels' scores, and both ends of all scores; ascending.

    The original moves the ends outwards by 1e-8. Above 0.25, float32 rounds that away: pixels tied at the minimum
    then pass no threshold, and the curves end before (1, 1).

    Returns:
        None without a defect pixel.
    """
    low, high, parts = np.inf, -np.inf, []
    for anomaly_map, mask in maps_at_masks(maps, masks):
        low, high = min(low, anomaly_map.min()), max(high, anomaly_map.max())
        parts.append(anomaly_map[mask])
    defects = np.concatenate(parts)
    if not defects.size:
        return None
    margin = maps.dtype.type(1e-8)  # in the maps' dtype, because NumPy 1 and 2 promote a Python float differently
    percentiles = np.percentile(defects, np.linspace(100, 0, num=_THRESHOLDS))
    steps = np.linspace(defects.max(), defects.min(), num=_THRESHOLDS)
    return np.sort(np.concatenate([percentiles, steps, [low - margin, high + margin]]))


def _trapezoid(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
