"""Linear evaluation: a classifier on frozen features, the standard measure of self-supervised pre-training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearMethod(nn.Module):
    """Label cross-entropy of a linear classifier; the backbone is frozen and stays in evaluation mode."""

    def __init__(self, backbone: nn.Module, feature_width: int, classes: int) -> None:
        """Freeze the backbone and add the classifier, initialised as in MoCo's `main_lincls.py`.

        Args:
            backbone: (B, 3, S, S) to (B, F).
            feature_width: width F of the pooled features.
            classes: number of labels.
        """
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.classifier = nn.Linear(feature_width, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> "LinearMethod":
        """Set the mode of the classifier only."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            views: `anchor` (B, 3, S, S) and `labels` int64 (B,).

        Returns:
            `loss_base`, cross-entropy of the labels; `features`, the backbone's pooled output (B, F).
        """
        with torch.no_grad():
            features = self.backbone(views["anchor"])
        return {"loss_base": F.cross_entropy(self.classifier(features), views["labels"]), "features": features}
