"""What is trained on and what is tested, per protocol: here 1-class, normal images alone for training."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eval.datasets import Category, Sample
from eval.features import Extractor
from eval.images import batches, read_mask
from eval.padim import Padim
from spd_weights.errors import SpdError

PROTOCOLS = {"1cls": ("padim",)}  # the methods of each protocol

Progress = Callable[[str, int, int], None]  # what is being done, images done, images in all


@dataclass(frozen=True)
class Run:
    """One repetition of a method: the unit whose numbers are one cell of the results."""

    protocol: str
    method: str
    seed: int


@dataclass(frozen=True)
class Settings:
    """What changes the numbers besides the data, the weights and the run."""

    image_size: int = 224
    padim_dims: int | None = None


@dataclass
class Prediction:
    """What a method says about the test images of a category, in their order.

    Attributes:
        scores: float32 [N], higher is more anomalous.
        maps: float32 [N, S, S].
        seconds: Wall time of feature extraction, training and scoring.
    """

    scores: np.ndarray
    maps: np.ndarray
    seconds: float


@dataclass
class _Fit:
    """A detector on its way, with the seconds spent in it."""

    detector: Padim
    seconds: float = 0.0
    scores: list[np.ndarray] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def check(category: Category, protocol: str) -> None:
    """Refuse a split on which the protocol's numbers would mean nothing.

    Raises:
        SpdError: Nothing to train on, anomalies among a 1-class training set, or a test set without
            anomalies or without normal images.
    """
    where = f"{category.folder}: {category.name}"
    if not category.train:
        raise SpdError(f"{where} has no training image; check its train split")
    if protocol == "1cls" and any(sample.anomalous for sample in category.train):
        first = next(sample for sample in category.train if sample.anomalous)
        raise SpdError(f"{where} has the anomaly {first.image} in its 1-class training split; correct the split")
    if not any(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no test anomaly, so nothing can be measured; add some or leave it out")
    if all(sample.anomalous for sample in category.test):
        raise SpdError(f"{where} has no normal test image, so nothing can be measured; add some or leave it out")


def read_masks(category: Category, image_size: int) -> np.ndarray | None:
    """The true defects of the test images.

    Returns:
        bool [N, S, S], all False for normal images; None where the category has no masks.

    Raises:
        SpdError: A mask is unreadable or marks nothing.
    """
    if not category.has_masks:
        return None
    masks = np.zeros((len(category.test), image_size, image_size), dtype=bool)
    for mask, sample in zip(masks, category.test, strict=True):
        if sample.mask:
            mask[:] = read_mask(sample.mask, image_size)
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
    fits = {run: _Fit(Padim(settings.image_size, run.seed, settings.padim_dims)) for run in runs}
    started = time.perf_counter()
    try:
        for maps in _features(category.train, "train", extractor, settings, workers, progress):
            for fit in fits.values():
                with fit.timed():
                    fit.detector.update(maps)
        for fit in fits.values():
            with fit.timed():
                fit.detector.fit()
        for maps in _features(category.test, "test", extractor, settings, workers, progress):
            for fit in fits.values():
                with fit.timed():
                    scores, anomaly_maps = fit.detector.score(maps)
                    fit.scores.append(scores.cpu().numpy())
                    fit.maps.append(anomaly_maps.cpu().numpy())
    except torch.linalg.LinAlgError as error:
        raise _not_finite(extractor, category) from error
    shared = time.perf_counter() - started - sum(fit.seconds for fit in fits.values())
    predictions = {
        run: Prediction(np.concatenate(fit.scores), np.concatenate(fit.maps), shared + fit.seconds)
        for run, fit in fits.items()
    }
    if not all(np.isfinite(p.maps).all() for p in predictions.values()):
        raise _not_finite(extractor, category)
    return predictions


def _features(
    samples: Sequence[Sample],
    stage: str,
    extractor: Extractor,
    settings: Settings,
    workers: int,
    progress: Progress,
) -> Iterator[list[Tensor]]:
    done = 0
    for images in batches([sample.image for sample in samples], settings.image_size, extractor.batch_size, workers):
        yield extractor(images)
        done += len(images)
        progress(stage, done, len(samples))


def _not_finite(extractor: Extractor, category: Category) -> SpdError:
    return SpdError(
        f"weights {extractor.weights!r} give features of {category.name} that are not finite; "
        "the training run has probably diverged"
    )
