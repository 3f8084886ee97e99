"""Supervised classification, with SPD as an auxiliary task."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SpdConfig
from .spd import SpotTheDifference


class SupervisedMethod(nn.Module):
    """Label cross-entropy. SPD adds the question whether an image was locally perturbed (paper §3.2)."""

    def __init__(self, backbone: nn.Module, feature_width: int, classes: int, spd: SpdConfig) -> None:
        """Add the classifier.

        Args:
            backbone: (B, 3, S, S) to (B, F).
            feature_width: width F of the pooled features.
            classes: number of labels.
            spd: the SPD options.
        """
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(feature_width, classes)
        self.spd = SpotTheDifference(backbone, feature_width, spd)

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: `anchor` (B, 3, S, S) and `labels` int64 (B,), and with SPD also `positive` and `negative`.

        Returns:
            `loss_base`, cross-entropy of the labels; `features`, the backbone's pooled output (B, F), detached; with
            SPD also `loss_spd` and `spd_accuracy`.
        """
        features = self.backbone(views["anchor"])
        loss = F.cross_entropy(self.classifier(features), views["labels"])
        spd = self.spd(self.backbone, nn.Identity(), views, features)
        return {"loss_base": loss, "features": features.detach(), **spd}
