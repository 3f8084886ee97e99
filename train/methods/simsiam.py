"""SimSiam (Chen & He, CVPR 2021)."""

from torch import Tensor, nn

from ..config import SpdConfig
from ..recipes import SimSiamConfig
from .heads import mlp
from .similarity import cosine
from .spd import SpotTheDifference


class SimSiamMethod(nn.Module):
    """Two views of an image attract each other, with a predictor on one side and a stop-gradient on the other."""

    def __init__(self, backbone: nn.Module, feature_width: int, config: SimSiamConfig, spd: SpdConfig) -> None:
        """Add the heads of the official ImageNet code.

        Args:
            backbone: (B, 3, S, S) to (B, F).
            feature_width: width F of the pooled features.
            config: widths of the heads.
            spd: the SPD options.
        """
        super().__init__()
        width = config.projector_dim
        self.backbone = backbone
        self.projector = mlp([feature_width, feature_width, feature_width, width], batch_norm=True, output_norm="plain")
        self.predictor = mlp([width, config.predictor_dim, width], batch_norm=True)
        self.spd = SpotTheDifference(backbone, feature_width, spd)

    def embed(self, images: Tensor) -> Tensor:
        """Projector outputs z of normalised images: (B, 3, S, S) to (B, D)."""
        return self.projector(self.backbone(images))

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: `anchor` and `second`, two strong views, and with SPD also `positive` and `negative`; each
                (B, 3, S, S), normalised.

        Returns:
            `loss_base` in [-1, 1]; `features`, the anchors' embeddings (B, D), detached; with SPD also
            `loss_spd` and `spd_accuracy`.
        """
        z1, z2 = self.embed(views["anchor"]), self.embed(views["second"])  # one pass per view, as in the official code
        p1, p2 = self.predictor(z1), self.predictor(z2)
        attraction = cosine(p1, z2.detach()) + cosine(p2, z1.detach())
        spd = self.spd(self.backbone, self.projector, views, z1, z2)
        return {"loss_base": -attraction.mean() / 2, "features": z1.detach(), **spd}
