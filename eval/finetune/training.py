"""Fine-tuning a network on the training images of a 2-class protocol."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

FREEZE = ("nothing", "batchnorm", "backbone")
PRECISIONS = ("no", "bf16")
_HEAD_LR_FACTOR = 10  # the new layers start from scratch, the backbone from its pre-training
_WARM_UP = 0.1  # fraction of the steps
_WEIGHT_DECAY = 0.01  # torch's default


@dataclass(frozen=True)
class Training:
    """How the 2-class methods train.

    From VisA's authors (the paper's protocols, and their answers in issue 8 of github.com/amazon-science/spot-diff):
    the backbone is fine-tuned, U-Net inputs have 800 pixels if possible, batches have 8 images, and the only
    augmentation is a horizontal flip with probability one half. The rest is our choice, made without looking at test
    images:

    Attributes:
        classifier_size: Side of the classifier's square images in pixels; 224, the size most backbones are trained at.
        unet_size: Side of the U-Net's images; 448, because 800 takes three times as long. Use 800 on a GPU.
        batch_size: Images per step.
        epochs: Passes over the training images. The length is fixed and the last weights are used. Early stopping or
            choosing an epoch would need held-out images, which the splits do not have; test images must not serve.
        min_steps: Minimum number of steps, for the few-shot protocols, whose epochs have two or three steps.
        lr: Peak learning rate of the backbone under AdamW, a common value for fine-tuning; the new layers use ten
            times as much. Linear warm-up over a tenth of the steps, then a cosine to zero, so that the last weights
            have settled. The weight decay is 0.01, torch's default, on all parameters.
        freeze: "nothing"; "batchnorm" keeps the backbone's running statistics; "backbone" trains only the new layers.
        precision: "no" is float32, on GPUs with torch's default of TF32 convolutions, whose rounding is far below the
            differences between seeds. "bf16" trains under autocast. Scores are computed in float32 either way: bf16's
            eight bits would cause many ties.
    """

    classifier_size: int = 224
    unet_size: int = 448
    batch_size: int = 8
    epochs: int = 10
    min_steps: int = 200
    lr: float = 1e-4
    freeze: str = "nothing"
    precision: str = "no"

    def steps(self, images: int) -> int:
        """Number of training steps for the given number of images."""
        return max(self.min_steps, math.ceil(self.epochs * images / self.batch_size))


class Network(nn.Module, ABC):
    """A backbone and new layers that give one logit per image or per pixel.

    Attributes:
        segments: Whether it learns from masks and gives logits of pixels, rather than of images.
    """

    segments: ClassVar[bool]

    def __init__(
        self, body: nn.Module, heads: Iterable[nn.Module], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Wrap a network.

        Args:
            body: Maps normalised images, float32 [B, 3, S, S], to logits [B, 1] or [B, 1, S, S].
            heads: The parts of `body` that were not pre-trained.
            mean: Mean of RGB in [0, 1] that the backbone expects to be subtracted.
            std: Standard deviation that it expects to be divided by.
        """
        super().__init__()
        self.body = body
        self._heads = tuple(heads)
        self.register_buffer("_mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("_std", torch.tensor(std).view(3, 1, 1))

    @abstractmethod
    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss to minimise, a scalar, of logits and truth (0 or 1), both float32 and of the same shape."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits, [B] or [B, S, S], of RGB images, uint8 [B, 3, S, S]."""
        return self.body((images / 255 - self._mean) / self._std).squeeze(1)

    def parameter_groups(self, lr: float, freeze: str) -> list[dict]:
        """Parameters for the optimiser: the backbone unless it is frozen, and the heads at their own rate."""
        new = [parameter for head in self._heads for parameter in head.parameters()]
        known = {id(parameter) for parameter in new}
        backbone = [parameter for parameter in self.body.parameters() if id(parameter) not in known]
        for parameter in backbone:
            parameter.requires_grad_(freeze != "backbone")
        groups = [{"params": new, "lr": _HEAD_LR_FACTOR * lr}]
        return groups if freeze == "backbone" else [{"params": backbone, "lr": lr}, *groups]

    def training_mode(self, freeze: str) -> None:
        """Like `train()`, except for the parts of the backbone that are frozen."""
        self.train()
        new = {module for head in self._heads for module in head.modules()}
        for module in self.body.modules():
            if module not in new and (
                freeze == "backbone" or (freeze == "batchnorm" and isinstance(module, _BatchNorm))
            ):
                module.training = False  # of this module only: eval() would also reach the heads


def finetune(
    network: Network,
    images: np.ndarray,
    truth: np.ndarray,
    training: Training,
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
) -> None:
    """Train a network in place, on its own device.

    Args:
        network: With the weights under test and new heads.
        images: RGB, uint8 [N, 3, S, S]; may be memory-mapped.
        truth: What is anomalous: bool, [N] for whole images or [N, S, S] for pixels.
        training: Length, rates and precision.
        rng: Determines the order of the images and the flips, all drawn before the first step.
        progress: Called after each step with the number of steps done and in total.
    """
    steps, size, device = training.steps(len(images)), training.batch_size, next(network.parameters()).device
    passes = [rng.permutation(len(images)) for _ in range(math.ceil(steps * size / len(images)))]
    order = np.concatenate(passes)[: steps * size]
    flips = rng.random(steps * size) < 0.5
    network.training_mode(training.freeze)
    optimizer = torch.optim.AdamW(network.parameter_groups(training.lr, training.freeze), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, steps))
    for step in range(steps):
        batch = slice(step * size, (step + 1) * size)
        shown = _flipped(images[order[batch]], flips[batch]).to(device, memory_format=torch.channels_last)
        target = _flipped(truth[order[batch]], flips[batch]).to(device).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            logits = network(shown)
        network.loss(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress(step + 1, steps)


@torch.inference_mode()
def logits_of(network: Network, images: Tensor) -> Tensor:
    """The trained network's logits of a batch, float32 on the CPU, [B] or [B, S, S].

    Logits and not probabilities, because a sigmoid rounds confident scores to ties.

    Args:
        network: In evaluation mode.
        images: RGB, uint8 [B, 3, S, S].
    """
    device = next(network.parameters()).device
    return network(images.to(device, memory_format=torch.channels_last)).float().cpu()


def _flipped(arrays: np.ndarray, flips: np.ndarray) -> Tensor:
    """Mirror part of a batch left to right: images [B, 3, S, S] or masks [B, S, S]; labels [B] stay as they are."""
    if arrays.ndim > 1:
        arrays[flips] = arrays[flips][..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(arrays))


def _lr_factor(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (1 + math.cos(math.pi * step / steps)) / 2
