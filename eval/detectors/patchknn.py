"""AnomalyDINO (Damm et al., arXiv 2405.14529): cosine distances to the nearest patches of normal images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Detector
from .maps import anomaly_maps
from .patches import BLOCK_FLOATS

TOP = 0.01  # fraction of the patches whose mean distance is the image score


class PatchKnn(Detector):
    """All patch tokens of the deepest layer of normal images, and the cosine distance to the nearest one.

    It is made for the last block of a vision transformer such as DINOv2. Two steps of the paper are left out: masking
    the background and rotating the training images. The paper uses them for some objects when there are few images.
    """

    reductions = (32,)
    seeded = False
    options = ("map_size",)

    def __init__(self, image_size: int) -> None:
        """Create an unfitted detector; `image_size` is the side of the evaluated image and of the maps, in pixels."""
        super().__init__()
        self._image_size = image_size
        self._tokens: list[Tensor] = []
        self.register_buffer("bank", torch.empty(0))  # float32 [M, C], of length one

    def update(self, features: list[Tensor]) -> None:
        """Add a batch of normal images; the last feature map is used."""
        self._tokens.append(_tokens(features).flatten(0, 2))

    def fit(self) -> None:
        """Keep all tokens."""
        self.bank = torch.cat(self._tokens)
        self._tokens.clear()

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Cosine distances to the nearest token; the image score is the mean of the highest 1 %."""
        tokens = _tokens(features)
        images, height, width, _ = tokens.shape
        chunks = tokens.flatten(0, 2).split(max(1, BLOCK_FLOATS // len(self.bank)))
        distances = 1 - torch.cat([(chunk @ self.bank.T).amax(dim=1) for chunk in chunks])
        highest = distances.view(images, -1).topk(max(1, round(TOP * height * width)), dim=1).values
        return highest.mean(dim=1), anomaly_maps(distances.view(images, height, width), self._image_size)


def _tokens(features: list[Tensor]) -> Tensor:
    """The last feature map's vectors, scaled to length one, float32 [B, H, W, C]."""
    return F.normalize(features[-1].permute(0, 2, 3, 1), dim=-1)
