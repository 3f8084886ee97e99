"""What the 1-class and the 2-class methods have in common: a predictor learns from a category and scores its tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .data.datasets import Category

ReportProgress = Callable[[str, int, int], None]  # stage, items done, items in total


@dataclass(frozen=True)
class Run:
    """One repetition of a method under a protocol."""

    protocol: str
    method: str
    seed: int


@dataclass
class Prediction:
    """A method's output for the test images of a category, in their order.

    Attributes:
        scores: Image scores, float32 [N]; higher is more anomalous.
        maps: Anomaly maps, float32 [N, S, S]; None if the method scores whole images only.
        seconds: Wall time of feature extraction, training and scoring.
        milliseconds: Wall time per test image, in the batches of the evaluation and without decoding: of the backbone
            and the detector, or of the fine-tuned network. None if it was not measured.
    """

    scores: np.ndarray
    maps: np.ndarray | None
    seconds: float
    milliseconds: float | None = None


class Predictor(Protocol):
    """Weights under test with the methods that use them.

    `OneClassPredictor` fits detectors on frozen features; `TwoClassPredictor` fine-tunes a network.

    Attributes:
        weights: The name by which the weights were requested.
        sha256: Digest of their safetensors file, or None.
        about: Architecture, device and the like, JSON-ready.
        image_size: Side S of the images that the methods see, in pixels.
        resize: What they see of a photograph; one of `eval.data.images.RESIZES`.
    """

    weights: str
    sha256: str | None
    about: dict[str, Any]
    image_size: int
    resize: str

    def identity(self, run: Run) -> dict[str, Any]:
        """What a run's numbers depend on besides the data and the settings: backbone, layers, device; JSON-ready."""

    def unusable(self, category: Category) -> str | None:
        """The reason why the methods cannot be measured on a category, or None."""

    def predict(
        self, category: Category, runs: Sequence[Run], workers: int, progress: ReportProgress
    ) -> dict[Run, Prediction]:
        """Learn from the category's training images and score its test images, for each of the runs.

        Args:
            category: With a split that was checked for the runs' protocol.
            runs: Methods and seeds.
            workers: Number of processes that decode images; does not change the result.
            progress: Called after each batch.

        Raises:
            SpdError: An image cannot be read, or scores are not finite.
        """
