"""SimSiam (Chen & He, CVPR 2021) with the SPD regulariser."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import SimSiamConfig
from train.spd import spd_loss


class SimSiamMethod(nn.Module):
    """Two views of an image attract each other: a predictor on one side, a stop-gradient on the other."""

    def __init__(self, backbone: nn.Module, features: int, config: SimSiamConfig) -> None:
        """Add the heads of the official ImageNet code.

        Args:
            backbone: (B, 3, S, S) to (B, features).
            features: width of the pooled features.
            config: widths of the heads.
        """
        super().__init__()
        width = config.projector_dim
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False),
        )  # fmt: skip
        self.predictor = nn.Sequential(
            nn.Linear(width, config.predictor_dim, bias=False),
            nn.BatchNorm1d(config.predictor_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.predictor_dim, width),
        )

    def embed(self, images: Tensor) -> Tensor:
        """Projector outputs z of normalised images: (B, 3, S, S) to (B, D)."""
        return self.projector(self.backbone(images))

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: `anchor` and `second` (two strong views), and with SPD also `positive` and
                `negative`; each (B, 3, S, S), normalised.

        Returns:
            `loss_base` in [-1, 1]; `features`, the anchors' embeddings (B, D), detached; with SPD also
            `loss_spd` and `spd_accuracy`.
        """
        z1, z2 = self.embed(views["anchor"]), self.embed(views["second"])  # one pass a view, as officially
        p1, p2 = self.predictor(z1), self.predictor(z2)
        attraction = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
        losses = {"loss_base": -attraction.mean() / 2, "features": z1.detach()}
        if "positive" in views:
            # In one pass, so that batch statistics can neither reveal nor wipe out the difference.
            pair = self.embed(torch.cat([views["positive"], views["negative"]]))
            losses |= spd_loss(z1, *pair.chunk(2))
        return losses
