"""Measurements during training: accuracy on `--data.val`, and the anomaly probe."""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from spd_weights.errors import SpdError
from spd_weights.images import normalized

from ..config import Config
from ..data.decode import Box, decode
from ..data.sources import Table, keep_layout, open_shared
from ..distributed import copy_buffers_from_first
from ..recipes import Supervised
from ..run import Run
from ..run_folder import layout_file
from .anomaly_probe import list_categories, probe_anomalies
from .knn import knn_top1
from .log import StepLog


class Validation(NamedTuple):
    """The labelled images of `--data.val` and `--probe.knn-bank`."""

    images: Table | None
    """`--data.val`, labelled."""
    bank: Table | None
    """`--probe.knn-bank`, labelled."""


def open_validation(run: Run) -> Validation:
    """Open what --data.val and --probe name, and check that it can be measured.

    Raises:
        SpdError: a data set cannot be used, or the classes of two of them differ.
    """
    config = run.config
    if config.probe.anomaly is not None:
        list_categories(config.probe.anomaly)
        if not hasattr(run.method.backbone, "forward_intermediates"):
            raise SpdError(f"--probe.anomaly: timm gives no intermediate feature maps of {config.model.arch}")
    if config.data.val is None:
        return Validation(None, None)
    images, bank = _open_kept(run, config.data.val, "val", "val"), None
    if isinstance(config, Supervised):
        _refuse_other_classes(config, images, "--data.train", run.images)
    elif config.probe.knn_bank:
        bank = _open_kept(run, config.probe.knn_bank, "train", "knn_bank")
        _refuse_other_classes(config, images, "--probe.knn-bank", bank)
    return Validation(images, bank)


def _open_kept(run: Run, source: str, split: str, name: str) -> Table:
    """Open labelled images, and keep their listing in the run's folder for later launches."""
    kept = layout_file(run.config, name)
    table = open_shared(source, True, split, kept, run.accelerator.device)
    if run.accelerator.is_main_process:
        keep_layout(table, source, True, split, kept)
    return table


def _refuse_other_classes(config: Config, images: Table, option: str, others: Table) -> None:
    ours, theirs = (table.features["label"].names for table in (images, others))
    if ours != theirs:
        differing = sorted(set(theirs) ^ set(ours))
        raise SpdError(f"--data.val {config.data.val}: its classes are not those of {option}; differing: {differing}")


class CentreCrops(Dataset[tuple[Tensor, int]]):
    """Each image once: its centre, 7/8 of the short side, as in the ImageNet protocol."""

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
        except Exception as error:  # decoders raise many kinds; skipping the image would change what is measured
            name = row["image"]["path"] or f"image {index}"
            raise SpdError(f"--data.val: {name} cannot be read: {error}") from error
        return crop[0], row["label"]


def _centre(width: int, height: int) -> Box:
    side = max(1, round(min(width, height) * 224 / 256))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def probe_due(run: Run, done: int) -> bool:
    """Whether to measure after `done` steps: every --probe.every epochs, and after the last step."""
    if run.config.data.val is None and run.config.probe.anomaly is None:
        return False
    epoch, rest = divmod(done, run.schedule.steps_per_epoch)
    return done == run.steps or (rest == 0 and epoch % run.config.probe.every == 0)


def validate(run: Run, validation: Validation, done: int, log: StepLog) -> None:
    """Measure in evaluation mode, without any effect on the run, and log it; call it on every process.

    All processes use the first one's batch statistics, as PyTorch's ImageNet example does. They differ if batch norm
    is not synchronised, and the first one's are those that get saved and exported.

    Args:
        run: the run.
        validation: from `open_validation`.
        done: steps completed.
        log: gets shares in [0, 1]. With `--data.val`: `val_top1` and `val_top5` of a classifier, or
            `val_knn_top1` of a method without labels. With `--probe.anomaly`, what `probe_anomalies` returns.
    """
    training = {module: module.training for module in run.method.modules()}
    run.method.eval()
    copy_buffers_from_first(run.method.backbone)
    try:
        measured = _measure(run, validation)
    finally:
        for module, mode in training.items():
            module.training = mode
    log.message(f"step {done}: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
    log.write(step=done, **measured)


@torch.no_grad()
def _measure(run: Run, validation: Validation) -> dict[str, float]:
    accelerator, config = run.accelerator, run.config
    mean, std = (torch.tensor(values, device=accelerator.device)[:, None, None] for values in (run.mean, run.std))
    measured: dict[str, float] = {}
    if validation.images is not None:
        outputs, labels = _outputs(run, validation.images, mean, std)
        if isinstance(config, Supervised):
            best = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
            measured = {"val_top1": best[:, 0].float().mean().item(), "val_top5": best.sum().item() / len(best)}
        else:
            bank = _outputs(run, validation.bank, mean, std) if validation.bank is not None else None
            top1 = knn_top1(outputs, labels, bank, config.probe.knn_neighbours, config.probe.knn_temperature)
            measured = {"val_knn_top1": top1}
    if config.probe.anomaly is not None and accelerator.is_main_process:
        measured |= probe_anomalies(run.method.backbone, config.probe.anomaly, config.data.image_size, mean, std)
    return measured


def _outputs(run: Run, table: Table, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (features if there is no classifier) and labels of all images; processes share the work."""
    accelerator, config = run.accelerator, run.config
    ends = [len(table) * part // accelerator.num_processes for part in range(accelerator.num_processes + 1)]
    mine = range(*ends[accelerator.process_index :][:2])
    crops = Subset(CentreCrops(table, config.data.image_size), mine)
    outputs, labels = [], []
    for images, batch_labels in DataLoader(crops, batch_size=64, num_workers=config.data.workers):
        with accelerator.autocast():
            features = run.method.backbone(normalized(images.to(accelerator.device), mean, std))
            outputs.append(run.method.classifier(features) if isinstance(config, Supervised) else features)
        labels.append(batch_labels.to(accelerator.device))
    # Shares differ by at most one image: pad them to gather, then drop the padding.
    longest = max(b - a for a, b in itertools.pairwise(ends))
    kept = torch.cat([torch.arange(b - a) + i * longest for i, (a, b) in enumerate(itertools.pairwise(ends))])
    padded = [
        F.pad(torch.cat(rows), (0,) * (2 * rows[0].ndim - 1) + (longest - len(mine),)) for rows in (outputs, labels)
    ]
    all_outputs, all_labels = (accelerator.gather(rows)[kept.to(rows.device)] for rows in padded)
    return all_outputs.float(), all_labels
