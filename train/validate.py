"""Top-1 and top-5 accuracy of a supervised run on labelled images it does not train on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from spd_weights.errors import SpdError
from train.data import decode
from train.setup import Run, open_run_images
from train.sources import Table


def open_validation(run: Run) -> Table | None:
    """Open `--data.val`, if there is one; its classes have to be those of the training images.

    Raises:
        SpdError: it is not usable, or the method has no classifier to validate.
    """
    config, training = run.config, run.images
    if config.data.val is None:
        return None
    if "label" not in training.features:
        raise SpdError("--data.val measures a classifier's accuracy, and only the recipe supervised has one")
    table = open_run_images(config, run.accelerator, "val", labelled=True)
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
        try:
            crop = decode(row["image"], lambda width, height: [_centre(width, height)], self.size)[0]
        except Exception as error:  # whatever a decoder throws; skipping would change what is measured
            raise SpdError(f"--data.val: {row['image']['path'] or f'image {index}'} is unreadable: {error}") from error
        return torch.from_numpy(crop).permute(2, 0, 1), row["label"]


def _centre(width: int, height: int) -> np.ndarray:
    side = min(width, height) * 224 / 256
    left, top = (width - side) / 2, (height - side) / 2
    return np.array([left, top, left + side, top + side])


@torch.no_grad()
def validate(run: Run, table: Table) -> dict[str, Any]:
    """Measure `val_top1` and `val_top5`, shares in [0, 1] over all images of the table, shared among processes."""
    size, accelerator = run.config.data.image_size, run.accelerator
    mean, std = (torch.tensor(values, device=accelerator.device)[:, None, None] for values in (run.mean, run.std))
    ends = [len(table) * part // accelerator.num_processes for part in range(accelerator.num_processes + 1)]
    mine = range(*ends[accelerator.process_index :][:2])
    loader = DataLoader(Subset(CentreCrops(table, size), mine), batch_size=64, num_workers=run.config.data.workers)
    counts = torch.zeros(3, device=accelerator.device)
    run.method.eval()
    for crops, labels in loader:
        images = (crops.to(accelerator.device).float() / 255 - mean) / std
        with accelerator.autocast():
            logits = run.method.classifier(run.method.backbone(images))
        best = logits.topk(min(5, logits.shape[1])).indices == labels.to(accelerator.device)[:, None]
        counts += torch.stack([best[:, 0].sum(), best.sum(), torch.tensor(len(labels), device=counts.device)])
    run.method.train()
    top1, top5, images = accelerator.reduce(counts, "sum").tolist()
    return {"val_top1": top1 / images, "val_top5": top5 / images}
