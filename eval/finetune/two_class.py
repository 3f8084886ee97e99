"""The 2-class protocols: weights fine-tuned on normal and anomalous images of one category, then tested."""

import copy
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from spd_weights.errors import SpdError

from ..backbone.weights import fingerprint, load_backbone
from ..data.datasets import Category, Sample
from ..data.images import batches
from ..data.masks import read_masks
from ..data.scratch import scratch
from ..predictions import Prediction, ReportProgress, Run
from .classifier import Classifier
from .training import Network, Training, finetune, logits_of
from .unet import UNet

NETWORKS: dict[str, type[Network]] = {"classifier": Classifier, "unet": UNet}


class TwoClassPredictor:
    """Weights that are fine-tuned by one method."""

    resize = "square"

    def __init__(self, weights: str, method: str, training: Training) -> None:
        """Load the weights and try the network on an empty image.

        Args:
            weights: As for `eval.backbone.weights.load_backbone`.
            method: One of `NETWORKS`.
            training: Image sizes and how to train.

        Raises:
            SpdError: The weights cannot be loaded, or the method cannot use them at this image size.
        """
        self.weights = weights
        self._network, self._training = NETWORKS[method], training
        self.image_size = getattr(training, f"{method}_size")
        self._backbone, self.sha256 = load_backbone(weights, self.image_size)
        self._fingerprint = fingerprint(self._backbone)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.about = {"architecture": self._backbone.pretrained_cfg["architecture"], "device": self._device.type}
        try:
            with torch.inference_mode():
                self.network(0).eval()(torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8))
        except Exception as error:  # architectures complain about a size with errors of any type
            reason = " ".join(str(error).split())[:300]
            raise SpdError(
                f"weights {weights!r}: {method} cannot be built for images of {self.image_size} x "
                f"{self.image_size} pixels ({reason})"
            ) from error

    def identity(self, run: Run) -> dict[str, Any]:
        """The backbone and the device."""
        return {"backbone": self._fingerprint, "device": self._device.type}

    def network(self, seed: int) -> Network:
        """The network before training, on the CPU: the weights under test, and heads drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._network(copy.deepcopy(self._backbone), self.image_size)

    def unusable(self, category: Category) -> str | None:
        """A U-Net cannot be measured without masks."""
        if self._network.segments and not category.has_masks:
            return "the category has no masks, from which a U-Net learns"
        return None

    def predict(
        self, category: Category, runs: Sequence[Run], workers: int, progress: ReportProgress
    ) -> dict[Run, Prediction]:
        """Train on the category's training images and score its test images, for each run.

        The heads' initial values, the order of the images and the flips are functions of the seed and the category's
        name. They are the same for all weights, so that differences between weights are paired.

        Returns:
            Logits: of images for the classifier; of pixels for the U-Net, whose image scores are its maps' maxima.

        Raises:
            SpdError: An image cannot be read, the training diverged, or it needs more memory than the GPU has.
        """
        try:
            return {run: self._predict(category, run.seed, workers, progress) for run in runs}
        except torch.OutOfMemoryError as error:
            raise SpdError(
                f"weights {self.weights!r}: {self._training.batch_size} images of {self.image_size} px do not fit the "
                "GPU; lower --unet-size, --classifier-size or --batch-size, or give --precision bf16"
            ) from error

    def _predict(self, category: Category, seed: int, workers: int, progress: ReportProgress) -> Prediction:
        started = time.perf_counter()
        rng = np.random.default_rng([seed, zlib.crc32(f"{category.name} training".encode())])
        network = self.network(int(rng.integers(2**63))).to(self._device, memory_format=torch.channels_last)
        images = self._images(category.train, workers, progress)
        truth = self._truth(category.train)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**63)))  # for dropout and the like
            finetune(network, images, truth, self._training, rng, lambda done, of: progress("train", done, of))
        prediction = self._score(network.eval(), category, workers, progress)
        prediction.seconds = time.perf_counter() - started
        return prediction

    def _images(self, samples: Sequence[Sample], workers: int, progress: ReportProgress) -> np.ndarray:
        """Training images, RGB, uint8 [N, 3, S, S], in a nameless file: each is decoded only once."""
        images, done = scratch((len(samples), 3, self.image_size, self.image_size), np.uint8), 0
        for batch in batches([sample.image for sample in samples], self.image_size, 8, workers):
            images[done : done + len(batch)] = batch.numpy()
            done += len(batch)
            progress("read", done, len(samples))
        return images

    def _truth(self, samples: Sequence[Sample]) -> np.ndarray:
        if self._network.segments:
            return read_masks(samples, self.image_size)
        return np.array([sample.anomalous for sample in samples])

    def _score(self, network: Network, category: Category, workers: int, progress: ReportProgress) -> Prediction:
        size, images = self.image_size, len(category.test)
        scores = np.zeros(images, np.float32)
        maps = scratch((images, size, size)) if network.segments else None
        done, seconds = 0, 0.0
        for pixels in batches([sample.image for sample in category.test], size, self._training.batch_size, workers):
            started = time.perf_counter()
            logits = logits_of(network, pixels)
            seconds += time.perf_counter() - started
            batch = slice(done, done + len(logits))
            if not torch.isfinite(logits).all():
                raise SpdError(
                    f"weights {self.weights!r}: fine-tuning on {category.name} diverged; lower --lr, or give "
                    "--precision no"
                )
            if maps is not None:
                maps[batch] = logits.numpy()
            scores[batch] = logits.flatten(1).amax(dim=1).numpy() if maps is not None else logits.numpy()
            done = batch.stop
            progress("test", done, images)
        return Prediction(scores, maps, seconds, 1000 * seconds / images)
