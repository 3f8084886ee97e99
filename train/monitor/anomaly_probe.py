"""How well a backbone finds anomalies in a small labelled set, measured during training.

A quick and coarse monitor; the numbers for comparing weights come from `python -m eval`.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.images import IMAGE_FORMATS, IMAGE_SUFFIXES, normalized
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices


def list_categories(folder: Path) -> list[Path]:
    """The categories of a data set in MVTec AD's layout: the folder itself, or its subfolders.

    Raises:
        SpdError: there is none.
    """
    found = [path for path in (folder, *sorted(folder.glob("*"))) if (path / "train" / "good").is_dir()]
    if not found:
        raise SpdError(f"--probe.anomaly {folder}: no <category>/train/good in it: give data in MVTec AD's layout")
    return found


@torch.no_grad()
def probe_anomalies(backbone: nn.Module, folder: Path, size: int, mean: Tensor, std: Tensor) -> dict[str, float]:
    """Find anomalies as PaDiM does, but with a diagonal covariance and all channels.

    Args:
        backbone: in evaluation mode, with intermediate feature maps.
        folder: a data set in MVTec AD's layout.
        size: images are resized to this square, in pixels.
        mean: of the normalisation, (3, 1, 1), on the backbone's device.
        std: likewise.

    Returns:
        `probe_image_auroc` and, if there are masks, `probe_pixel_ap`: means over categories, in [0, 1].

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
        scores, defective, pixels, masks = [], [], [], []
        for path in _images(category / "test"):
            score = ((maps(path) - centre).square() / variance).sum(0).sqrt()
            scores.append(score.max().item())
            defective.append(path.parent.name != "good")
            mask = category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            if not defective[-1] or mask.exists():
                pixels.append(F.interpolate(score[None, None], (size, size), mode="bilinear")[0, 0].cpu())
                masks.append(_pixels(mask, size, "L") > 0 if defective[-1] else torch.zeros(size, size))
        if len(set(defective)) < 2:
            raise SpdError(f"--probe.anomaly {category}: test/ needs both good and defective images")
        image_auroc.append(roc_auc_score(defective, scores))
        if any(mask.any() for mask in masks):
            pixel_ap.append(average_precision_score(torch.stack(masks).flatten().bool(), torch.stack(pixels).flatten()))
    result = {"probe_image_auroc": float(np.mean(image_auroc))}
    return result | ({"probe_pixel_ap": float(np.mean(pixel_ap))} if pixel_ap else {})


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _pixels(path: Path, size: int, mode: str) -> Tensor:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            how = Image.Resampling.BILINEAR if mode == "RGB" else Image.Resampling.NEAREST
            return torch.from_numpy(np.array(image.convert(mode).resize((size, size), how)))
    except Exception as error:  # decoders raise many kinds
        raise SpdError(f"--probe.anomaly: {path} cannot be read: {error}") from error
