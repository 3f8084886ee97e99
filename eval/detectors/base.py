"""The interface that all 1-class detectors share, and a detector behind linear maps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LearnedBuffers(nn.Module):
    """A module whose buffers get their shapes from the training data.

    `load_state_dict` therefore takes shapes from the stored tensors. Buffers that are declared in `__init__` (empty)
    must be among them.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        device = next(self.buffers()).device
        for key, tensor in state_dict.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and "." not in name:
                self.register_buffer(name, torch.empty_like(tensor, device=device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Detector(LearnedBuffers, ABC):
    """Learns from feature maps of normal images, then scores other images.

    Call `update` with each training batch, then `fit`. After that the module maps features to anomaly scores. What
    it has learned lies in buffers: `state_dict`, `load_state_dict` and `.to(device)` work as for any module.

    Attributes:
        reductions: Strides of the feature maps that it reads, out of `spd_weights.stages.REDUCTIONS`.
        seeded: Whether its result depends on a seed. If not, one repetition is enough.
        options: Names of the `Settings` fields that change its numbers, besides those that all detectors use.
    """

    reductions: ClassVar[tuple[int, ...]]
    seeded: ClassVar[bool]
    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images.

        Args:
            features: One feature map per layer, finest first, float32, each [B, C_l, H_l, W_l].
        """

    @abstractmethod
    def fit(self) -> None:
        """Finish learning, after the last batch."""

    @abstractmethod
    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Score a batch of test images.

        Args:
            features: As for `update`.

        Returns:
            Image scores, float32 [B], and anomaly maps, float32 [B, S, S]; higher is more anomalous. Detectors of
            whole images return None instead of maps.
        """


class Adapted(Detector):
    """Multiplies every feature vector by its layer's matrix, a 1 x 1 convolution, before another detector reads it.

    The matrices are buffers, `map_0` and so on. They are saved with the detector, and a traced or exported graph of
    `forward` contains them.
    """

    reductions = ()  # the detector's own, once there is one
    seeded = False

    def __init__(self, detector: Detector, maps: Sequence[Tensor]) -> None:
        """Wrap a detector.

        Args:
            detector: Not fitted yet, or about to be loaded.
            maps: One matrix per feature map that it reads, float32 [C_l, C_l]; empty ones where a state is loaded next.
        """
        super().__init__()
        self.detector, self.layers = detector, len(maps)
        self.reductions, self.seeded, self.options = detector.reductions, detector.seeded, detector.options
        for layer, matrix in enumerate(maps):
            self.register_buffer(f"map_{layer}", matrix)

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images."""
        self.detector.update(self._mapped(features))

    def fit(self) -> None:
        """Finish learning, after the last batch."""
        self.detector.fit()

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Score a batch of test images."""
        return self.detector(self._mapped(features))

    def _mapped(self, features: list[Tensor]) -> list[Tensor]:
        matrices = [getattr(self, f"map_{layer}") for layer in range(self.layers)]
        return [F.conv2d(x, matrix[:, :, None, None]) for x, matrix in zip(features, matrices, strict=True)]
