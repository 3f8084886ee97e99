"""PaDiM and PatchCore from image files to metrics against anomalib's models, in one run.

    pip install "anomalib==2.*"
    python -m tests.bench.anomalib_end_to_end --data DIR --category NAME --weights W

The same images (decoded and resized by our loader for both), the same weights, layers, channels and coreset
ratio; W is a timm model name, `hf-hub:…` or `local-dir:…`. Prints seconds and image and pixel AUROC of both, by
our metrics. Fails where PaDiM takes more than a third of anomalib's time, or an AUROC differs by more than half a
point. What differs: anomalib adds 1e-5 to the ridge and reflects borders otherwise when it smooths. Its coreset
has another random projection and start, which alone moves AUROCs by points; so they are compared with our coreset
in its model (`tests.bench.coreset` shows that from one start both select the same). For a ResNet-50's 550 channels
anomalib needs 12 GB of memory.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.datasets import Category, load_categories
from eval.features import Extractor
from eval.images import batches
from eval.methods import METHODS, Detector, Settings
from eval.metrics import image_metrics, pixel_metrics
from eval.protocols import read_masks

Scores = tuple[np.ndarray, np.ndarray]  # of images [N], of pixels [N, S, S]


def main() -> int:
    """Measure and print; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--category", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--method", nargs="+", choices=("padim", "patchcore"), default=("padim", "patchcore"))
    parser.add_argument("--coreset-ratio", type=float, default=0.01)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=10_000, help="training and test images at most")
    args = parser.parse_args()
    (category,) = load_categories(args.data, "1cls", [args.category])
    train = [sample.image for sample in category.train[: args.limit]]
    kept = range(0, len(category.test), max(1, len(category.test) // args.limit))
    test = Category(
        category.dataset, category.name, category.folder, category.train, tuple(category.test[i] for i in kept)
    )
    settings = Settings(image_size=args.image_size, coreset_ratio=args.coreset_ratio)
    print(f"{category.name}: {len(train)} training and {len(test.test)} test images, {torch.get_num_threads()} threads")
    passed = True
    for method in args.method:
        extractor = Extractor(args.weights, settings.image_size, METHODS[method].reductions)
        (detector,) = METHODS[method].make(settings, [0], len(train))
        seconds, ours = _timed(lambda e=extractor, d=detector: _ours(e, d, train, test, settings))
        channels = detector.state().get("channels")
        model = _anomalib(method, args.weights, extractor.layers, channels)
        other, theirs = _timed(lambda m=model, e=extractor: _theirs(m, e, train, test, settings))
        print(f"{method}: ours {seconds:.1f} s, anomalib {other:.1f} s, ratio {other / seconds:.1f}")
        if method == "patchcore":
            own = _aurocs(test, theirs, settings.image_size)
            print(f"  anomalib with its own coreset: image AUROC {own[0]:.2f}, pixel AUROC {own[1]:.2f}")
            model.memory_bank = detector.state()["bank"]
            theirs = _their_scores(model, extractor, test, settings)
        found = [_aurocs(test, scores, settings.image_size) for scores in (ours, theirs)]
        for name, a, b in zip(("image", "pixel"), *found, strict=True):
            print(f"  {name} AUROC {a:.2f} and {b:.2f}")
            passed &= abs(a - b) <= 0.5
        passed &= method != "padim" or other >= 3 * seconds
    return 0 if passed else 1


def _timed(run: Callable[[], Scores]) -> tuple[float, Scores]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def _ours(extractor: Extractor, detector: Detector, train: list[Path], test: Category, settings: Settings) -> Scores:
    for images in batches(train, settings.image_size, extractor.batch_size, 0):
        detector.update(extractor(images))
    detector.fit()
    paths = [sample.image for sample in test.test]
    found = [detector.score(extractor(b)) for b in batches(paths, settings.image_size, extractor.batch_size, 0)]
    scores, maps = zip(*found, strict=True)
    return torch.cat(scores).numpy(), torch.cat(maps).numpy()


def _anomalib(method: str, weights: str, layers: list[int], channels: Tensor | None) -> torch.nn.Module:
    if method == "padim":
        from anomalib.models.image.padim.torch_model import PadimModel

        model = PadimModel(backbone=weights, layers=layers, n_features=len(channels))
        model.idx = channels
        return model
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    return PatchcoreModel(backbone=weights, layers=layers, num_neighbors=1)


@torch.inference_mode()
def _theirs(
    model: torch.nn.Module, extractor: Extractor, train: list[Path], test: Category, settings: Settings
) -> Scores:
    torch.manual_seed(0)
    model.train()
    model.feature_extractor.eval()
    for images in batches(train, settings.image_size, extractor.batch_size, 0):
        model(extractor.normalised(images))
    if hasattr(model, "subsample_embedding"):
        model.subsample_embedding(settings.coreset_ratio)
    else:
        model.fit()
    model.eval()
    return _their_scores(model, extractor, test, settings)


@torch.inference_mode()
def _their_scores(model: torch.nn.Module, extractor: Extractor, test: Category, settings: Settings) -> Scores:
    paths = [sample.image for sample in test.test]
    images = batches(paths, settings.image_size, extractor.batch_size, 0)
    found = [model(extractor.normalised(batch)) for batch in images]
    maps = torch.cat([batch.anomaly_map for batch in found])[:, 0]
    return torch.cat([batch.pred_score for batch in found]).flatten().numpy(), maps.numpy()


def _aurocs(test: Category, scores: Scores, size: int) -> tuple[float, float]:
    anomalous = np.array([sample.anomalous for sample in test.test])
    masks = read_masks(test.test, size)
    image = image_metrics(scores[0], anomalous)["image_auroc"].value
    pixel = pixel_metrics(scores[1], masks)["pixel_auroc"].value
    return 100 * image, 100 * pixel


if __name__ == "__main__":
    sys.exit(main())
