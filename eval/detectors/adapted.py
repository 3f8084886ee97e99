"""A detector behind one linear map per feature map."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .base import Detector


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
