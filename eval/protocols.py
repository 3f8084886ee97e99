"""What is trained on and what is tested, per protocol; and 1-class: normal images alone for training."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from spd_weights.errors import SpdError

from .backbone.features import Extractor
from .data.datasets import Category, Sample
from .data.images import batches, read_mask, whole_mask
from .data.scratch import scratch
from .detectors.methods import METHODS, Detector, Settings

SHOTS = {"2cls_5shot": 5, "2cls_10shot": 10}  # training images of either class
_TWO_CLASS = ("classifier", "unet")
# The methods of each protocol.
PROTOCOLS = {"1cls": tuple(METHODS), **dict.fromkeys(("2cls_highshot", *SHOTS), _TWO_CLASS)}
_DEFAULT_METHODS = {"1cls": ("padim",)}

Progress = Callable[[str, int, int], None]  # what is being done, images done, images in all


@dataclass(frozen=True)
class Run:
    """One repetition of a method: the unit whose numbers are one cell of the results."""

    protocol: str
    method: str
    seed: int


@dataclass
class Prediction:
    """What a method says about the test images of a category, in their order.

    Attributes:
        scores: float32 [N], higher is more anomalous.
        maps: float32 [N, S, S]; None where the method scores whole images.
        seconds: Wall time of feature extraction, training and scoring.
    """

    scores: np.ndarray
    maps: np.ndarray | None
    seconds: float


@dataclass
class _Fit:
    """A detector on its way: its predictions so far, and the seconds spent in it."""

    detector: Detector
    reductions: tuple[int, ...]
    scores: list[np.ndarray] = field(default_factory=list)
    maps: np.ndarray | None = None
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def score(self, features: list[Tensor], done: int, images: int) -> None:
        scores, maps = self.detector.score(features)
        self.scores.append(scores.cpu().numpy())
        if maps is not None:
            if self.maps is None:
                self.maps = scratch((images, *maps.shape[1:]))
            self.maps[done : done + len(maps)] = maps.cpu().numpy()


def repetitions(protocol: str, methods: Sequence[str], seeds: int) -> list[Run]:
    """The runs that were asked for; a method without randomness is run once, with seed 0.

    Args:
        protocol: One of `PROTOCOLS`.
        methods: Names of methods, of other protocols too; none for PaDiM in 1-class, and all in 2-class.
        seeds: How many repetitions.

    Raises:
        SpdError: None of the methods is one of this protocol.
    """
    known = PROTOCOLS[protocol]
    chosen = [method for method in known if method in methods] if methods else _DEFAULT_METHODS.get(protocol, known)
    if not chosen:
        raise SpdError(f"--method {' '.join(methods)}: protocol {protocol} has {', '.join(known)}; add one of these")
    return [
        Run(protocol, method, seed)
        for method in chosen
        for seed in range(seeds if method not in METHODS or METHODS[method].seeded else 1)
    ]


def check(category: Category, protocol: str) -> None:
    """Refuse a split on which the protocol's numbers would mean nothing.

    Raises:
        SpdError: As `check_training`, or a test set without anomalies or without normal images.
    """
    check_training(category, protocol)
    where = f"{category.folder}: {category.name}"
    if not any(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no test anomaly, so nothing can be measured; add some or leave it out")
    if all(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no normal test image, so nothing can be measured; add some or leave it out")


def check_training(category: Category, protocol: str) -> None:
    """Refuse a split from which nothing can be learned.

    Raises:
        SpdError: Nothing to train on, anomalies among a 1-class training set, or a 2-class one of one class.
    """
    where = f"{category.folder}: {category.name}"
    if not category.train:
        raise SpdError(f"{where} has no training image; check its train split")
    if protocol == "1cls" and any(sample.anomalous for sample in category.train):
        first = next(sample for sample in category.train if sample.anomalous)
        raise SpdError(f"{where} has the anomaly {first.image} in its 1-class training split; correct the split")
    if protocol != "1cls" and len({sample.anomalous for sample in category.train}) < 2:
        missing = "normal" if category.train[0].anomalous else "anomalous"
        raise SpdError(
            f"{where} has no {missing} training image, and {protocol} learns from both classes; "
            "add some or leave it out with --category"
        )


def check_masks(categories: Sequence[Category]) -> None:
    """Read each mask once, so that one without a defect is found before hours of work and not after.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    masks = {s.mask: None for category in categories for s in (*category.train, *category.test) if s.mask}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves the interpreter free
        for _ in pool.map(whole_mask, masks):
            pass


def read_masks(samples: Sequence[Sample], image_size: int, resize: str = "square") -> np.ndarray | None:
    """The true defects of some images.

    Returns:
        bool [N, S, S], all False for normal images; None where no image has a mask.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    if not any(sample.mask for sample in samples):
        return None
    masks = scratch((len(samples), image_size, image_size), np.bool_)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask:
            mask[:] = read_mask(sample.mask, image_size, resize)
    return masks


def one_class(
    category: Category,
    extractor: Extractor,
    runs: list[Run],
    settings: Settings,
    workers: int,
    progress: Progress,
) -> dict[Run, Prediction]:
    """Train on the normal training images, score the test images; features are extracted once for all runs.

    Args:
        category: With a checked 1-class split.
        extractor: The frozen backbone.
        runs: Methods and seeds to evaluate.
        settings: Image size and the methods' options.
        workers: Processes that decode images.
        progress: Called after every batch.

    Returns:
        A prediction for each run.

    Raises:
        SpdError: An image cannot be read, or a score is not finite.
    """
    fits = _fits(runs, settings, len(category.train))
    started = time.perf_counter()
    try:
        for _, maps in feature_maps(category.train, "train", extractor, settings, workers, progress):
            _update(fits, extractor, maps)
        for fit in fits.values():
            with fit.timed():
                fit.detector.fit()
        for done, maps in feature_maps(category.test, "test", extractor, settings, workers, progress):
            for fit in fits.values():
                with fit.timed():
                    fit.score(extractor.select(maps, fit.reductions), done, len(category.test))
    except torch.linalg.LinAlgError as error:
        raise not_finite(extractor, category) from error
    shared = time.perf_counter() - started - sum(fit.seconds for fit in fits.values())
    predictions = {
        run: Prediction(np.concatenate(fit.scores), fit.maps, shared + fit.seconds) for run, fit in fits.items()
    }
    if not all(np.isfinite(p.scores if p.maps is None else p.maps).all() for p in predictions.values()):
        raise not_finite(extractor, category)
    return predictions


def _fits(runs: list[Run], settings: Settings, images: int) -> dict[Run, _Fit]:
    fits = {}
    for name in dict.fromkeys(run.method for run in runs):
        of_method = [run for run in runs if run.method == name]
        method = METHODS[name]
        detectors = method.make(settings, [run.seed for run in of_method], images)
        fits |= {run: _Fit(d, method.reductions) for run, d in zip(of_method, detectors, strict=True)}
    return fits


def _update(fits: dict[Run, _Fit], extractor: Extractor, maps: list[Tensor]) -> None:
    chosen = {reductions: extractor.select(maps, reductions) for reductions in {f.reductions for f in fits.values()}}
    for fit in fits.values():
        with fit.timed():
            fit.detector.update(chosen[fit.reductions])


def feature_maps(
    samples: Sequence[Sample],
    stage: str,
    extractor: Extractor,
    settings: Settings,
    workers: int,
    progress: Progress,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Feature maps batch by batch, with the number of images before them."""
    done = 0
    paths = [sample.image for sample in samples]
    for images in batches(paths, settings.image_size, extractor.batch_size, workers, settings.resize):
        yield done, extractor(images)
        done += len(images)
        progress(stage, done, len(samples))


def not_finite(extractor: Extractor, category: Category) -> SpdError:
    """The error to raise for features that hold NaN or infinity."""
    return SpdError(
        f"weights {extractor.weights!r} give features of {category.name} that are not finite; "
        "the training run has probably diverged"
    )
