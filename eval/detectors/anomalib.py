"""A saved detector as an anomalib model: anomalib's Engine, data modules, metrics and viewers on our scores."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import InterpolationMode, resize
from torchvision.tv_tensors import Mask

from ..data.images import to_square
from .saved import load_detector


class SavedDetector(AnomalibModule):
    """For `Engine.predict` and `Engine.test`; it is fitted already.

    Scores and maps stay raw. anomalib's default post-processor would scale them by the range of a validation set and
    clamp them to [0, 1] before its metrics are computed. All scores beyond the range become equal, which changes AUROC.
    """

    def __init__(self, path: Path | str, weights: str | None = None) -> None:
        """Load a detector.

        Args:
            path: A file written by `save_detector`.
            weights: Name of the backbone, if it is no longer available under the recorded name.

        Raises:
            SpdError: As `load_detector`.
        """
        detector, extractor, about = load_detector(Path(path), weights)
        post_processor = PostProcessor(enable_normalization=False)
        post_processor._image_threshold.fill_(about["threshold"])  # anomalib has no public way to set it
        squares = _Squares(extractor.image_size, about["settings"]["resize"])
        super().__init__(PreProcessor(squares), post_processor, visualizer=False)
        self.model = _Model(extractor, detector)

    @property
    def learning_type(self) -> LearningType:
        """Learned from normal images."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """None."""
        return {}


class _Model(nn.Module):
    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self._parts = parts  # a tuple, so that Lightning does not move one of them to another device

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score a batch, float32 [B, 3, S, S], uint8 values divided by 255."""
        extractor, detector = self._parts
        features = extractor(images.mul(255).round().byte())
        scores, maps = detector(extractor.select(features, detector.reductions))
        maps = None if maps is None else maps[:, None].to(images.device)
        return InferenceBatch(pred_score=scores.to(images.device), anomaly_map=maps)


class _Squares(Transform):
    """Resize images as `read_image` does, and their masks by nearest neighbour."""

    def __init__(self, size: int, mode: str) -> None:
        super().__init__()
        self._size, self._mode = size, mode

    def transform(self, given: Tensor, params: dict[str, Any]) -> Tensor:
        if isinstance(given, Mask):
            return resize(given, [self._size, self._size], InterpolationMode.NEAREST)
        photos = given.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        squares = [to_square(Image.fromarray(photo), self._size, self._mode) for photo in photos]
        return torch.from_numpy(np.stack(squares).transpose(0, 3, 1, 2)).to(given.device).float().div(255)
