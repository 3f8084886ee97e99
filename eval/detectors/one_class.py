"""The 1-class protocol: detectors that learn from normal images alone, on the features of a frozen backbone."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spd_weights.errors import SpdError

from ..backbone.features import Extractor
from ..backbone.tiles import AnyExtractor
from ..data.datasets import Category, Sample
from ..data.images import batches
from ..data.scratch import scratch
from ..predictions import Prediction, ReportProgress, Run
from .base import Detector
from .methods import DETECTORS, Settings, build_detectors


class OneClassPredictor:
    """A frozen backbone with detectors. Features are extracted once and shared by all runs."""

    def __init__(self, weights: str, methods: Sequence[str], settings: Settings) -> None:
        """Load the weights.

        Args:
            weights: As for `eval.backbone.weights.load_backbone`.
            methods: The detectors to be run, of `DETECTORS`.
            settings: Image size and the detectors' options.

        Raises:
            SpdError: As `Extractor`.
        """
        self.extractor = extractor_for(weights, methods, settings)
        self.weights, self.sha256, self.about = weights, self.extractor.sha256, self.extractor.about
        self.image_size, self.resize = settings.image_size, settings.resize
        self._settings = settings

    def identity(self, run: Run) -> dict[str, Any]:
        """The backbone, the layers that the run's detector reads, and the device."""
        layers = self.extractor.layers_of(DETECTORS[run.method].reductions)
        return {"backbone": self.extractor.fingerprint, "layers": layers, "device": self.extractor.device.type}

    def unusable(self, category: Category) -> str | None:
        """None: every category with normal images can be measured."""

    def predict(
        self, category: Category, runs: Sequence[Run], workers: int, progress: ReportProgress
    ) -> dict[Run, Prediction]:
        """Fit the runs' detectors on the normal training images and score the test images, in two passes."""
        tasks = self._tasks(runs, len(category.train), len(category.test))
        started = time.perf_counter()
        try:
            for maps in self._features(category.train, workers, progress, "train"):
                self._feed(_Task.update, tasks, maps)
            for task in tasks.values():
                task.fit()
            extracted = self.extractor.seconds
            for maps in self._features(category.test, workers, progress, "test"):
                self._feed(_Task.score, tasks, maps)
        except torch.linalg.LinAlgError as error:
            raise not_finite(self.extractor, category.name) from error
        shared = time.perf_counter() - started - sum(task.seconds for task in tasks.values())
        extraction = self.extractor.seconds - extracted
        predictions = {run: task.prediction(shared, extraction) for run, task in tasks.items()}
        if not all(np.isfinite(p.scores if p.maps is None else p.maps).all() for p in predictions.values()):
            raise not_finite(self.extractor, category.name)
        return predictions

    def _tasks(self, runs: Sequence[Run], n_train: int, n_test: int) -> "dict[Run, _Task]":
        tasks = {}
        for method in dict.fromkeys(run.method for run in runs):
            of_method = [run for run in runs if run.method == method]
            detectors = build_detectors(method, self._settings, [run.seed for run in of_method], n_train)
            tasks |= {run: _Task(detector, n_test) for run, detector in zip(of_method, detectors, strict=True)}
        return tasks

    def _features(
        self, samples: Sequence[Sample], workers: int, progress: ReportProgress, stage: str
    ) -> Iterator[list[Tensor]]:
        """Extract the feature maps of photographs, batch by batch, in order."""
        done, extractor = 0, self.extractor
        paths = [sample.image for sample in samples]
        for images in batches(paths, extractor.image_size, extractor.batch_size, workers, self.resize):
            yield extractor(images)
            done += len(images)
            progress(stage, done, len(samples))

    def _feed(
        self, step: "Callable[[_Task, list[Tensor]], None]", tasks: "dict[Run, _Task]", maps: list[Tensor]
    ) -> None:
        """Give each detector the maps that it reads; detectors that read the same ones receive the same list."""
        wanted = {task.detector.reductions for task in tasks.values()}
        features = {reductions: self.extractor.select(maps, reductions) for reductions in wanted}
        for task in tasks.values():
            started = time.perf_counter()
            step(task, features[task.detector.reductions])
            task.seconds += time.perf_counter() - started


@dataclass
class _Task:
    """One detector, its predictions so far, and the seconds spent in it."""

    detector: Detector
    n_test: int
    seconds: float = 0.0
    scoring_since: float = 0.0  # the value of `seconds` after `fit`
    scores: list[np.ndarray] = field(default_factory=list)
    maps: np.ndarray | None = None

    def update(self, features: list[Tensor]) -> None:
        self.detector.update(features)

    def fit(self) -> None:
        started = time.perf_counter()
        self.detector.fit()
        self.seconds += time.perf_counter() - started
        self.scoring_since = self.seconds

    def score(self, features: list[Tensor]) -> None:
        scores, maps = self.detector(features)
        done = sum(map(len, self.scores))
        self.scores.append(scores.cpu().numpy())
        if maps is not None:
            if self.maps is None:
                self.maps = scratch((self.n_test, *maps.shape[1:]))
            self.maps[done : done + len(maps)] = maps.cpu().numpy()

    def prediction(self, shared: float, extraction: float) -> Prediction:
        """The prediction, given the seconds of everything outside the detectors, and of the test images' extraction."""
        milliseconds = 1000 * (extraction + self.seconds - self.scoring_since) / self.n_test
        return Prediction(np.concatenate(self.scores), self.maps, shared + self.seconds, milliseconds)


def extractor_for(weights: str, methods: Sequence[str], settings: Settings) -> Extractor:
    """Load weights as the feature extractor that the given detectors need; errors as `Extractor`."""
    reductions = sorted({reduction for method in methods for reduction in DETECTORS[method].reductions})
    return Extractor(weights, settings.image_size, reductions, settings.feature_precision, settings.layers)


def not_finite(extractor: AnyExtractor, what: str) -> SpdError:
    """The error to raise when the features of `what` contain NaN or infinity."""
    return SpdError(
        f"weights {extractor.weights!r} give features of {what} that are not finite; "
        "the training run has probably diverged"
    )
