"""PaDiM and PatchCore from image files to metrics against anomalib, in one run.

    pip install "anomalib==2.*"
    python -m tests.bench.anomalib_end_to_end --data DIR --category NAME --weights W

Both use the same images, weights (a timm model name, `hf-hub:…` or `local-dir:…`), layers, number of channels and
coreset ratio. anomalib runs in two ways: as its users run it, with Engine.fit and Engine.test on a Folder datamodule,
its default metrics, and validation on the test images (MVTecAD's default, which sets the thresholds), without result
pictures; and as bare models between our loader and our metrics, so that only the methods differ. Times are CPU seconds
from building the model on (wall time is unreliable on a busy machine); set OMP_NUM_THREADS=1.

Prints seconds and image and pixel AUROC. Fails if the AUROCs differ from those of the bare models by more than half a
point, or if PaDiM takes more than a third of the Engine's time. Known differences: anomalib adds 1e-5 to the ridge and
pads borders differently when it smooths; its Engine also resizes differently and draws other channels. Its coreset uses
another random projection and start, which alone changes AUROCs by points; therefore its model is also given our coreset
(`tests.bench.coreset` shows that from the same start both select the same). For a ResNet-50's 550 channels anomalib
needs 12 GB of memory.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from eval.backbone.features import Extractor
from eval.backbone.weights import load_backbone
from eval.data.datasets import Category, Sample, load_categories
from eval.data.images import batches
from eval.data.masks import read_masks
from eval.detectors.methods import DETECTORS, Settings, build_detectors
from eval.metrics.metrics import image_metrics, pixel_metrics

Scores = tuple[np.ndarray, np.ndarray]  # of images [N], of pixels [N, S, S]
Aurocs = tuple[float, float]  # of images and of pixels, in percent


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
    (found,) = load_categories(args.data, "1cls", [args.category])
    kept = range(0, len(found.test), max(1, len(found.test) // args.limit))
    category = replace(found, train=found.train[: args.limit], test=tuple(found.test[i] for i in kept))
    settings = Settings(image_size=args.image_size, coreset_ratio=args.coreset_ratio)
    print(
        f"{category.name}: {len(category.train)} training and {len(category.test)} test images, "
        f"{torch.get_num_threads()} threads"
    )
    return 0 if all([_passed(method, args.weights, category, settings) for method in args.method]) else 1


def _passed(method: str, weights: str, category: Category, settings: Settings) -> bool:
    seconds, (extractor, state, ours) = _timed(lambda: _ours(method, weights, category, settings))
    bare_seconds, (model, bare) = _timed(lambda: _bare(method, weights, category, settings, extractor, state))
    whole_seconds, whole = _timed(lambda: _engine(method, weights, category, settings, extractor, state))
    print(f"{method}: ours {seconds:.1f} s, image and pixel AUROC {_shown(ours)}")
    print(f"  anomalib's Engine {whole_seconds:.1f} s, ratio {whole_seconds / seconds:.1f}, AUROC {_shown(whole)}")
    print(f"  its bare model {bare_seconds:.1f} s, ratio {bare_seconds / seconds:.1f}, AUROC {_shown(bare)}")
    if method == "patchcore":
        model.memory_bank = state["bank"]
        bare = _aurocs(category, _their_scores(model, extractor, category, settings), settings.image_size)
        print(f"  its bare model with our coreset: AUROC {_shown(bare)}")
    agree = all(abs(a - b) <= 0.5 for a, b in zip(ours, bare, strict=True))
    return agree and (method != "padim" or whole_seconds >= 3 * seconds)


def _shown(aurocs: Aurocs) -> str:
    return " and ".join(f"{100 * value:.2f}" for value in aurocs)


def _timed(run: Callable[[], tuple]) -> tuple[float, tuple]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def _ours(
    method: str, weights: str, category: Category, settings: Settings
) -> tuple[Extractor, dict[str, Tensor], Aurocs]:
    extractor = Extractor(weights, settings.image_size, DETECTORS[method].reductions)
    (detector,) = build_detectors(method, settings, [0], len(category.train))
    for images in _batches(category.train, extractor, settings):
        detector.update(extractor(images))
    detector.fit()
    found = [detector(extractor(images)) for images in _batches(category.test, extractor, settings)]
    scores, maps = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return extractor, detector.state_dict(), _aurocs(category, (scores, maps), settings.image_size)


def _bare(
    method: str,
    weights: str,
    category: Category,
    settings: Settings,
    extractor: Extractor,
    state: dict[str, Tensor],
) -> tuple[torch.nn.Module, Aurocs]:
    """anomalib's model alone; PaDiM with our channels."""
    if method == "padim":
        from anomalib.models.image.padim.torch_model import PadimModel

        model = PadimModel(backbone=weights, layers=extractor.layers, n_features=len(state["channels"]))
        model.idx = state["channels"]
    else:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        model = PatchcoreModel(backbone=weights, layers=extractor.layers, num_neighbors=1)
    torch.manual_seed(0)
    model.train()
    model.feature_extractor.eval()
    with torch.inference_mode():
        for images in _batches(category.train, extractor, settings):
            model(extractor.normalised(images))
        if method == "padim":
            model.fit()
        else:
            model.subsample_embedding(settings.coreset_ratio)
    model.eval()
    scores = _their_scores(model, extractor, category, settings)
    return model, _aurocs(category, scores, settings.image_size)


@torch.inference_mode()
def _their_scores(model: torch.nn.Module, extractor: Extractor, category: Category, settings: Settings) -> Scores:
    found = [model(extractor.normalised(images)) for images in _batches(category.test, extractor, settings)]
    maps = torch.cat([batch.anomaly_map for batch in found])[:, 0]
    return torch.cat([batch.pred_score for batch in found]).flatten().numpy(), maps.numpy()


def _engine(
    method: str,
    weights: str,
    category: Category,
    settings: Settings,
    extractor: Extractor,
    state: dict[str, Tensor],
) -> Aurocs:
    """anomalib as its documentation shows; the images are links in a folder."""
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Padim, Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    side = (settings.image_size, settings.image_size)
    expected = resolve_model_data_config(load_backbone(weights, settings.image_size)[0])
    options = {
        "backbone": weights,
        "layers": extractor.layers,
        "pre_processor": PreProcessor(
            Compose([Resize(side, antialias=True), Normalize(expected["mean"], expected["std"])])
        ),
        "visualizer": False,
    }
    if method == "padim":
        model = Padim(n_features=len(state["channels"]), **options)
    else:
        model = Patchcore(coreset_sampling_ratio=settings.coreset_ratio, num_neighbors=1, **options)
    with tempfile.TemporaryDirectory() as folder:
        root = _links(Path(folder), category)
        data = Folder(
            name=category.name, root=root, normal_dir="train", normal_test_dir="good", abnormal_dir="bad",
            mask_dir="mask", num_workers=0, val_split_mode="same_as_test",
        )  # fmt: skip
        engine = Engine(accelerator="cpu", devices=1, default_root_dir=root / "out", enable_progress_bar=False)
        engine.fit(model, datamodule=data)
        (found,) = engine.test(model, datamodule=data, verbose=False)
    return found["image_AUROC"], found["pixel_AUROC"]


def _links(root: Path, category: Category) -> Path:
    for part, samples in (("train", category.train), ("test", category.test)):
        for index, sample in enumerate(samples):
            kind = "train" if part == "train" else "bad" if sample.anomalous else "good"
            for folder, file in ((kind, sample.image), ("mask", sample.mask)):
                if file:
                    (root / folder).mkdir(exist_ok=True)
                    (root / folder / f"{index:05d}{file.suffix}").symlink_to(file)
    return root


def _batches(samples: Sequence[Sample], extractor: Extractor, settings: Settings) -> Iterator[Tensor]:
    return batches([sample.image for sample in samples], settings.image_size, extractor.batch_size, 0)


def _aurocs(category: Category, scores: Scores, size: int) -> Aurocs:
    anomalous = np.array([sample.anomalous for sample in category.test])
    masks = read_masks(category.test, size)
    image = image_metrics(scores[0], anomalous)["image_auroc"].value
    pixel = pixel_metrics(scores[1], masks)["pixel_auroc"].value
    return image, pixel


if __name__ == "__main__":
    sys.exit(main())
