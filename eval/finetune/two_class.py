"""The 2-class protocols: weights fine-tuned on normal and anomalous images of one category, then tested."""

import copy
import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spd_weights.errors import SpdError

from ..backbone.weights import load_backbone
from ..data.datasets import Category, Sample
from ..data.images import batches
from ..data.scratch import scratch
from ..protocols import Prediction, Progress, read_masks
from .classifier import build_classifier
from .training import Loss, Network, Training, finetune, logits_of
from .unet import build_unet, focal_loss


class Method(NamedTuple):
    """How to make a method's network.

    Attributes:
        build: From a timm model and the side of its images, the network.
        loss: What it minimises.
        outlines: Whether it learns from masks and gives maps, or from labels and gives scores.
    """

    build: Callable[[nn.Module, int], Network]
    loss: Loss
    outlines: bool


METHODS = {
    "classifier": Method(lambda backbone, _: build_classifier(backbone), F.binary_cross_entropy_with_logits, False),
    "unet": Method(build_unet, focal_loss, True),
}


class Finetuner:
    """A method on given weights: what `Extractor` is to the 1-class methods.

    Attributes:
        weights: The name they were asked for by.
        sha256: Of the safetensors file, or None.
        about: The architecture and the device, JSON-ready.
        image_size: Side of the images that the method sees, in pixels.
    """

    def __init__(self, weights: str, method: str, training: Training) -> None:
        """Load the weights and try the network on an empty image.

        Args:
            weights: As for `eval.backbone.weights.load_backbone`.
            method: "classifier" or "unet".
            training: Image sizes and how to train.

        Raises:
            SpdError: The weights cannot be loaded, or the method cannot use them at this image size.
        """
        self.weights = weights
        self._method, self._training = METHODS[method], training
        self.image_size = getattr(training, f"{method}_size")
        self._backbone, self.sha256 = load_backbone(weights, self.image_size)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.about = {"architecture": self._backbone.pretrained_cfg["architecture"], "device": self._device.type}
        try:
            with torch.inference_mode():
                self.network(0).eval()(torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8))
        except Exception as error:  # an architecture's own complaint about the size, of any type
            reason = " ".join(str(error).split())[:300]
            raise SpdError(
                f"weights {weights!r}: {method} cannot be built for images of {self.image_size} x "
                f"{self.image_size} pixels ({reason})"
            ) from error

    def network(self, seed: int) -> Network:
        """The network before training, on the CPU: the weights under test, and a head drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._method.build(copy.deepcopy(self._backbone), self.image_size)

    def unusable(self, category: Category) -> str | None:
        """Why the method cannot be measured on a category, if so."""
        if self._method.outlines and not category.has_masks:
            return "the category has no masks, from which a U-Net learns"
        return None

    def __call__(self, category: Category, seed: int, workers: int, progress: Progress) -> Prediction:
        """Train on the category's training images and score its test images.

        The head's initial values, the order of the images and the flips are functions of the seed and the
        category's name, alike for all weights, so that differences between weights are paired.

        Args:
            category: With both classes among its training images.
            seed: Of the repetition.
            workers: Processes that decode images; change nothing.
            progress: Called after every batch.

        Returns:
            Logits: of images for the classifier; of pixels for the U-Net, whose image scores are its maps' maxima.

        Raises:
            SpdError: An image cannot be read, the training diverged, or needs more memory than the GPU has.
        """
        try:
            return self._cell(category, seed, workers, progress)
        except torch.OutOfMemoryError as error:
            raise SpdError(
                f"weights {self.weights!r}: {self._training.batch_size} images of {self.image_size} px do not fit the "
                "GPU; lower --unet-size, --classifier-size or --batch-size, or give --precision bf16"
            ) from error

    def _cell(self, category: Category, seed: int, workers: int, progress: Progress) -> Prediction:
        started = time.perf_counter()
        rng = np.random.default_rng([seed, zlib.crc32(f"{category.name} training".encode())])
        network = self.network(int(rng.integers(2**63))).to(self._device, memory_format=torch.channels_last)
        images = _decoded(category.train, self.image_size, workers, progress)
        truth = self._truth(category.train)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**63)))  # for dropout and the like
            finetune(
                network, images, truth, self._method.loss, self._training, rng,
                lambda done, of: progress("train", done, of),
            )  # fmt: skip
        scores, maps = self._score(network, category, workers, progress)
        return Prediction(scores, maps, time.perf_counter() - started)

    def _truth(self, samples: Sequence[Sample]) -> np.ndarray:
        if self._method.outlines:
            return read_masks(samples, self.image_size)
        return np.array([sample.anomalous for sample in samples])

    def _score(
        self, network: Network, category: Category, workers: int, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray | None]:
        size, images = self.image_size, len(category.test)
        scores = np.zeros(images, np.float32)
        maps = scratch((images, size, size)) if self._method.outlines else None
        done = 0
        paths = [sample.image for sample in category.test]
        for logits in logits_of(network, paths, size, self._training.batch_size, workers):
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
        return scores, maps


def _decoded(samples: Sequence[Sample], size: int, workers: int, progress: Progress) -> np.ndarray:
    """Training images, RGB, uint8, [N, 3, S, S], in a nameless file: each is decoded once for all epochs."""
    images, done = scratch((len(samples), 3, size, size), np.uint8), 0
    for batch in batches([sample.image for sample in samples], size, 8, workers):
        images[done : done + len(batch)] = batch.numpy()
        done += len(batch)
        progress("read", done, len(samples))
    return images
