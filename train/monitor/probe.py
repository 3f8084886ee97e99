"""`python -m train.monitor.probe`: what frozen features still know of ordinary photographs.

A ridge classifier on pooled features: closed form, so that nothing about it is tuned but the penalty, which
is the one with the best leave-one-out accuracy on the training images.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import spd_weights  # noqa: F401  (registers its names with timm)
from spd_weights.environment import environment
from spd_weights.errors import SpdError
from spd_weights.files import write_json
from spd_weights.images import normalized

from ..data.sources import open_images
from ..export import data_name
from .validate import CentreCrops

PENALTIES = tuple(10.0**k for k in range(-6, 3))
"""Tried, as multiples of the features' mean variance times the number of images."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m train.monitor.probe",
        description="Linear probe: top-1 accuracy of a ridge classifier on frozen, pooled features of labelled "
        "photographs. Says how much general knowledge a weight has kept.",
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="W", help="timm names, hf-hub:…, local-dir:…")
    parser.add_argument("--train", required=True, metavar="SOURCE", help="labelled images, as for --data.train")
    parser.add_argument("--val", required=True, metavar="SOURCE", help="others of the same classes")
    parser.add_argument("--image-size", type=int, default=224, metavar="PX", help="side of the centre crops (224)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that decode images (2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    given = parser.parse_args(argv)
    try:
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
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@torch.inference_mode()
def encode(weights: str, crops: CentreCrops, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Pooled features and labels of every image.

    Args:
        weights: anything that `timm.create_model` takes.
        crops: uint8 centre crops and labels.
        workers: processes that decode.

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
    except Exception as error:  # timm, huggingface_hub and safetensors each raise kinds of their own
        raise SpdError(f"--weights {weights}: {error}") from error


def ridge_accuracy(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor) -> tuple[float, float]:
    """Fit a ridge classifier and measure it on other images.

    Least squares from standardised features to centred one-hot labels, solved by one eigendecomposition for
    all penalties. A left-out image's residual is its residual divided by 1 - leverage, so that leaving each
    out costs nothing.

    Args:
        features: float64 (N, F), of the images to learn from.
        labels: int64 (N,).
        val_features: float64 (M, F), of the images to measure on.
        val_labels: int64 (M,).

    Returns:
        Top-1 accuracy on the second set, in [0, 1], and the penalty chosen on the first.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-12)
    x, v = (features - mean) / std, (val_features - mean) / std
    onehot = nn.functional.one_hot(labels).double()
    y = onehot - onehot.mean(0)
    scale, axes = torch.linalg.eigh(x.T @ x)
    along = x @ axes
    target = along.T @ y
    best = (-1.0, 0.0, target)
    for penalty in PENALTIES:
        shrunk = 1 / (scale.clamp(min=0) + penalty * len(x))
        leverage = (along.square() @ shrunk + 1 / len(x)).clamp(max=1 - 1e-9)[:, None]
        left_out = y - (y - along @ (shrunk[:, None] * target)) / (1 - leverage) + onehot.mean(0)
        accuracy = float((left_out.argmax(1) == labels).double().mean())
        if accuracy > best[0]:
            best = (accuracy, penalty, axes @ (shrunk[:, None] * target))
    predicted = (v @ best[2] + onehot.mean(0)).argmax(1)
    return float((predicted == val_labels).double().mean()), best[1]


if __name__ == "__main__":
    sys.exit(main())
