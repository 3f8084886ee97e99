"""`python -m train.monitor.probe`: how well frozen features classify ordinary photographs.

A ridge classifier on pooled features. It has a closed form, and its only setting is the penalty: the one with
the best leave-one-out accuracy on the training images.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader

import spd_weights  # noqa: F401  (registers its names with timm)
from spd_weights.environment import environment
from spd_weights.errors import SpdError, run_command
from spd_weights.files import write_json
from spd_weights.images import normalized

from ..data.sources import open_images
from ..export import data_name
from .validation import CentreCrops

PENALTIES = tuple(10.0**k for k in range(-6, 3))
"""Penalties to try, as multiples of the features' mean variance times the number of images."""


@dataclass(frozen=True)
class Probe:
    """Linear probe: top-1 accuracy of a ridge classifier on frozen, pooled features of labelled photographs.
    Shows how much general knowledge a weight has kept."""

    weights: tuple[str, ...]
    """timm names, hf-hub:…, local-dir:… or names of this package."""
    train: str
    """Labelled images to fit the classifier on, as for --data.train."""
    val: str
    """Other images of the same classes, to measure on."""
    out: Path
    """JSON file to write."""
    image_size: int = 224
    """Side of the centre crops, in pixels."""
    workers: int = 2
    """Processes that decode images."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(lambda: _measure(tyro.cli(Probe, prog=f"python -m {__package__}.probe", args=arguments)))


def _measure(given: Probe) -> None:
    tables = [open_images(given.train, labelled=True), open_images(given.val, labelled=True, split="val")]
    if tables[0].features["label"].names != tables[1].features["label"].names:
        raise SpdError(f"{given.val}: its classes are not those of {given.train}")
    rows = []
    for weights in given.weights:
        encoded = [encode(weights, CentreCrops(table, given.image_size), given.workers) for table in tables]
        top1, penalty = ridge_accuracy(*encoded[0], *encoded[1])
        rows.append({"weights": weights, "top1": top1, "penalty": penalty})
        print(f"{weights}: top-1 {100 * top1:.2f} % of {len(tables[1])} images", flush=True)
    write_json(
        given.out,
        {
            "schema": 1,
            "train": {"name": data_name(given.train), "images": len(tables[0])},
            "val": {"name": data_name(given.val), "images": len(tables[1])},
            "image_size": given.image_size,
            "environment": environment(),
            "rows": rows,
        },
    )


@torch.inference_mode()
def encode(weights: str, crops: CentreCrops, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Pooled features and labels of every image.

    Args:
        weights: anything that `timm.create_model` takes.
        crops: uint8 centre crops and labels.
        workers: processes that decode images.

    Returns:
        Features, float64 (N, F), and labels, int64 (N,).

    Raises:
        SpdError: the weights cannot be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _load(weights).eval().to(device)
    data = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(data[name], device=device)[:, None, None] for name in ("mean", "std"))
    features, labels = [], []
    for batch, of_batch in DataLoader(crops, batch_size=32, num_workers=workers):
        features.append(model(normalized(batch.to(device), mean, std)).cpu().double())
        labels.append(of_batch)
    return torch.cat(features), torch.cat(labels)


def _load(weights: str) -> nn.Module:
    try:
        return timm.create_model(weights, pretrained=True, num_classes=0)
    except SpdError:
        raise
    except Exception as error:  # timm, huggingface_hub and safetensors raise many kinds
        raise SpdError(f"--weights {weights}: {error}") from error


def ridge_accuracy(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor) -> tuple[float, float]:
    """Fit a ridge classifier and measure its accuracy on other images.

    Least squares from standardised features to centred one-hot labels; one eigendecomposition solves it for all
    penalties. The leave-one-out residual of an image is its residual divided by 1 - leverage, so
    cross-validation needs no refitting.

    Args:
        features: float64 (N, F), of the training images.
        labels: int64 (N,).
        val_features: float64 (M, F), of the validation images.
        val_labels: int64 (M,).

    Returns:
        Top-1 accuracy on the validation images, in [0, 1], and the penalty chosen on the training images.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-12)
    x, v = (features - mean) / std, (val_features - mean) / std
    onehot = nn.functional.one_hot(labels).double()
    y = onehot - onehot.mean(0)
    # In the eigenvectors' coordinates xᵀx is diagonal, so each penalty costs a division.
    eigenvalues, eigenvectors = torch.linalg.eigh(x.T @ x)
    rotated = x @ eigenvectors
    rotated_y = rotated.T @ y
    best = (-1.0, 0.0, rotated_y)
    for penalty in PENALTIES:
        inverse = 1 / (eigenvalues.clamp(min=0) + penalty * len(x))
        solution = inverse[:, None] * rotated_y
        leverage = (rotated.square() @ inverse + 1 / len(x)).clamp(max=1 - 1e-9)[:, None]
        left_out = y - (y - rotated @ solution) / (1 - leverage) + onehot.mean(0)
        accuracy = float((left_out.argmax(1) == labels).double().mean())
        if accuracy > best[0]:
            best = (accuracy, penalty, eigenvectors @ solution)
    predicted = (v @ best[2] + onehot.mean(0)).argmax(1)
    return float((predicted == val_labels).double().mean()), best[1]


if __name__ == "__main__":
    sys.exit(main())
