"""Is the backbone any good yet? Nearest neighbours on labelled images, and anomalies found in a small set.

The loss of a self-supervised run says little about that. These are monitors, quick and coarse; the numbers
to compare weights by come from `python -m eval`.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.images import IMAGE_SUFFIXES, normalized
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices

_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # Wu et al., CVPR 2018


@torch.no_grad()
def knn_top1(features: Tensor, labels: Tensor) -> float:
    """Share of images whose label their neighbours among the others vote for (Wu et al., CVPR 2018).

    Args:
        features: (N, D), N > 1.
        labels: int64 (N,).
    """
    unit, votes = F.normalize(features.float()), F.one_hot(labels).float()
    correct = 0
    for start in range(0, len(unit), 1024):
        near = unit[start : start + 1024] @ unit.T
        rows = torch.arange(len(near), device=near.device)
        near[rows, rows + start] = -2.0  # not oneself
        cosine, index = near.topk(min(_NEIGHBOURS, len(unit) - 1))
        weights = torch.exp((cosine - 1) / _TEMPERATURE)[..., None]
        correct += int(((weights * votes[index]).sum(1).argmax(1) == labels[start : start + 1024]).sum())
    return correct / len(unit)


def list_categories(folder: Path) -> list[Path]:
    """The categories of a set in MVTec AD's layout: the folder itself, or those in it.

    Raises:
        SpdError: there is none.
    """
    there = [path for path in (folder, *sorted(folder.glob("*"))) if (path / "train" / "good").is_dir()]
    if not there:
        raise SpdError(f"--probe.anomaly {folder}: no <category>/train/good in it: give data in MVTec AD's layout")
    return there


@torch.no_grad()
def probe_anomalies(backbone: nn.Module, folder: Path, size: int, mean: Tensor, std: Tensor) -> dict[str, float]:
    """Find anomalies as PaDiM does, but with a diagonal covariance and all channels.

    Args:
        backbone: in evaluation mode, with intermediate feature maps.
        folder: a set in MVTec AD's layout.
        size: images are resized to this square, in pixels.
        mean: of the normalisation, (3, 1, 1), on the backbone's device.
        std: likewise.

    Returns:
        `probe_image_auroc` and, where there are masks, `probe_pixel_ap`, in [0, 1], means over categories.

    Raises:
        SpdError: an image cannot be read, or a category has no defects.
    """
    indices = stage_indices(backbone)
    stages = sorted({indices[reduction] for reduction in DETECTOR_REDUCTIONS})

    def maps(path: Path) -> Tensor:
        image = normalized(_pixels(path, size, "RGB").to(mean.device).movedim(-1, 0), mean, std)
        found = backbone.forward_intermediates(image[None], indices=stages, intermediates_only=True)
        return torch.cat([F.interpolate(m.float(), (size // 8, size // 8), mode="bilinear") for m in found], 1)[0]

    image_auroc, pixel_ap = [], []
    for category in list_categories(folder):
        good = [maps(path) for path in _images(category / "train" / "good")]
        variance, centre = torch.var_mean(torch.stack(good), 0)
        variance = variance + 0.01 * variance.mean()
        scores, defects, pixels, masks = [], [], [], []
        for path in _images(category / "test"):
            score = ((maps(path) - centre).square() / variance).sum(0).sqrt()
            scores.append(score.max())
            defects.append(path.parent.name != "good")
            mask = category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            if not defects[-1] or mask.exists():
                full = F.interpolate(score[None, None], (size, size), mode="bilinear")[0, 0]
                pixels.append(full.cpu())
                masks.append(_pixels(mask, size, "L") > 0 if defects[-1] else torch.zeros(size, size))
        if len(set(defects)) < 2:
            raise SpdError(f"--probe.anomaly {category}: test/ needs good images and others")
        image_auroc.append(curves(torch.stack(scores).cpu(), torch.tensor(defects))[0])
        if any(mask.any() for mask in masks):
            pixel_ap.append(curves(torch.stack(pixels).flatten(), torch.stack(masks).flatten().bool())[1])
    result = {"probe_image_auroc": float(np.mean(image_auroc))}
    return result | ({"probe_pixel_ap": float(np.mean(pixel_ap))} if pixel_ap else {})


def curves(scores: Tensor, positive: Tensor) -> tuple[float, float]:
    """AUROC and average precision, exact with ties: float scores (N,) and bool labels (N,) of both kinds."""
    order = scores.argsort(descending=True)
    scores, positive = scores[order], positive[order].double()
    ends = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])  # the last of each group of equals
    hits, alarms = positive.cumsum(0)[ends], torch.arange(1, len(scores) + 1)[ends]
    recall, misses = hits / hits[-1], (alarms - hits) / (len(scores) - hits[-1])
    zero = torch.zeros(1, dtype=torch.double)
    auroc = torch.trapezoid(torch.cat([zero, recall]), torch.cat([zero, misses]))
    return auroc.item(), ((hits / alarms) * recall.diff(prepend=zero)).sum().item()


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _pixels(path: Path, size: int, mode: str) -> Tensor:
    try:
        with Image.open(path) as image:
            how = Image.Resampling.BILINEAR if mode == "RGB" else Image.Resampling.NEAREST
            return torch.from_numpy(np.array(image.convert(mode).resize((size, size), how)))
    except Exception as error:  # whatever a decoder throws
        raise SpdError(f"--probe.anomaly: {path} is unreadable: {error}") from error
