"""What a run is measured by while it trains: accuracy on `--data.val`, and the probe for anomalies."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from spd_weights.errors import SpdError
from spd_weights.images import normalized

from ..data.decode import Box, decode
from ..data.sources import Table
from ..recipes import Supervised
from ..setup import Run, open_run_images
from .online import knn_top1, list_categories, probe_anomalies


def open_validation(run: Run) -> Table | None:
    """Open `--data.val`, if there is one; with a classifier, its classes have to be those of the training images.

    Raises:
        SpdError: it, or `--probe.anomaly`, is not usable.
    """
    config, training = run.config, run.images
    if config.probe.anomaly is not None:
        list_categories(config.probe.anomaly)
        if not hasattr(run.method.backbone, "forward_intermediates"):
            raise SpdError(f"--probe.anomaly: timm gives no intermediate feature maps of {config.model.arch}")
    if config.data.val is None:
        return None
    table = open_run_images(config, run.accelerator, "val", labelled=True)
    if not isinstance(config, Supervised):
        return table
    ours, theirs = training.features["label"].names, table.features["label"].names
    if ours != theirs:
        unknown = sorted(set(theirs) ^ set(ours))
        raise SpdError(f"--data.val {config.data.val}: its classes are not those of --data.train; differing: {unknown}")
    return table


class CentreCrops(Dataset[tuple[Tensor, int]]):
    """Every image once: the centre of it, 7/8 of its short side, as the ImageNet protocol has it."""

    def __init__(self, table: Table, size: int) -> None:
        """Wrap a labelled table from `open_images`; `size` in pixels."""
        self.table, self.size = table, size

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The uint8 crop (3, S, S) and its label."""
        row = self.table[index]
        crop = torch.empty(1, 3, self.size, self.size, dtype=torch.uint8)
        try:
            decode(row["image"], lambda width, height: [_centre(width, height)], crop)
        except Exception as error:  # whatever a decoder throws; skipping would change what is measured
            raise SpdError(f"--data.val: {row['image']['path'] or f'image {index}'} is unreadable: {error}") from error
        return crop[0], row["label"]


def _centre(width: int, height: int) -> Box:
    side = max(1, round(min(width, height) * 224 / 256))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


@torch.no_grad()
def validate(run: Run, table: Table | None) -> dict[str, float]:
    """Measure what there is to measure, in evaluation mode, with no effect on the run.

    Returns:
        Shares in [0, 1]. With `--data.val`: `val_top1` and `val_top5` of a classifier, or `val_knn_top1` of a
        method without labels. With `--probe.anomaly`, what `probe_anomalies` gives, on the first process.
    """
    accelerator, config = run.accelerator, run.config
    mean, std = (torch.tensor(values, device=accelerator.device)[:, None, None] for values in (run.mean, run.std))
    training = {module: module.training for module in run.method.modules()}
    run.method.eval()
    measured: dict[str, float] = {}
    try:
        if table is not None:
            outputs, labels = _outputs(run, table, mean, std)
            if isinstance(config, Supervised):
                best = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
                measured = {"val_top1": best[:, 0].float().mean().item(), "val_top5": best.sum().item() / len(best)}
            else:
                measured = {"val_knn_top1": knn_top1(outputs, labels)}
        if config.probe.anomaly is not None and accelerator.is_main_process:
            measured |= probe_anomalies(run.method.backbone, config.probe.anomaly, config.data.image_size, mean, std)
    finally:
        for module, mode in training.items():
            module.training = mode
    return measured


def _outputs(run: Run, table: Table, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, or features where there is no classifier, and labels of all images; processes share the work."""
    accelerator, config = run.accelerator, run.config
    ends = [len(table) * part // accelerator.num_processes for part in range(accelerator.num_processes + 1)]
    mine = range(*ends[accelerator.process_index :][:2])
    crops = Subset(CentreCrops(table, config.data.image_size), mine)
    outputs, labels = [], []
    for images, some in DataLoader(crops, batch_size=64, num_workers=config.data.workers):
        with accelerator.autocast():
            features = run.method.backbone(normalized(images.to(accelerator.device), mean, std))
            outputs.append(run.method.classifier(features) if isinstance(config, Supervised) else features)
        labels.append(some.to(accelerator.device))
    # Shares differ by an image at most: fill up to gather them, and leave the filling out again.
    longest = max(b - a for a, b in itertools.pairwise(ends))
    kept = torch.cat([torch.arange(b - a) + i * longest for i, (a, b) in enumerate(itertools.pairwise(ends))])
    padded = [
        F.pad(torch.cat(rows), (0,) * (2 * rows[0].ndim - 1) + (longest - len(mine),)) for rows in (outputs, labels)
    ]
    everyones = [accelerator.gather(rows)[kept.to(rows.device)] for rows in padded]
    return everyones[0].float(), everyones[1]
