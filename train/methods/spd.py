"""The SPot-the-Difference loss (Zou et al., ECCV 2022, §3.2): one module that every method calls."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError

from ..config import SpdConfig
from .similarity import cosine


def spd_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """Pull the anchor towards its weak augmentation and push it away from the perturbed copy.

    L_SPD = cos(anchor, negative) - cos(anchor, positive), averaged over the batch. The formula has no
    stop-gradient, so all three embeddings receive gradients.

    Args:
        anchor: embeddings of the anchor views, (B, D).
        positive: embeddings of the anchors' weak global augmentations, (B, D).
        negative: embeddings of weak global augmentations with a local perturbation, (B, D).

    Returns:
        `loss_spd`, a scalar in [-2, 2], 0 if positive and negative are equally similar to the anchor; `spd_accuracy`,
        the share of samples whose negative is less similar to the anchor than their positive (0.5 = chance).
    """
    to_positive, to_negative = cosine(anchor, positive), cosine(anchor, negative)
    accuracy = (to_positive > to_negative).float().mean()
    return {"loss_spd": (to_negative - to_positive).mean(), "spd_accuracy": accuracy.detach()}


def spot_loss(positive_logits: Tensor, negative_logits: Tensor) -> dict[str, Tensor]:
    """Distinguish perturbed images from merely weakly augmented ones: cross-entropy of a binary classifier.

    Args:
        positive_logits: of unperturbed images, (B, 2); their class is 0.
        negative_logits: of perturbed images, (B, 2); their class is 1.

    Returns:
        `loss_spd`, ln 2 at chance; `spd_accuracy`, the share of images classified correctly (0.5 = chance).
    """
    logits = torch.cat([positive_logits, negative_logits])
    perturbed = torch.arange(2, device=logits.device).repeat_interleave(len(positive_logits))
    accuracy = (logits.argmax(1) == perturbed).float().mean()
    return {"loss_spd": F.cross_entropy(logits, perturbed), "spd_accuracy": accuracy.detach()}


Encoder = Callable[[Tensor], Tensor]


class SpotTheDifference(nn.Module):
    """Encodes the SPD views and computes the loss; returns nothing for a batch without SPD views."""

    def __init__(self, backbone: nn.Module, feature_width: int, config: SpdConfig) -> None:
        """Choose the form of the loss.

        Args:
            backbone: a timm model; only the width of a stage is read from it.
            feature_width: width F of its pooled features.
            config: the SPD options; `loss` must not be "auto".

        Raises:
            SpdError: the backbone has no stage `config.layer`.
        """
        super().__init__()
        self.config = config
        self.classifier = None
        if config.loss == "cross_entropy" and config.weight > 0:
            width = feature_width if config.layer is None else _stage_width(backbone, config.layer)
            self.classifier = nn.Linear(width, 2)

    def forward(
        self, backbone: Encoder, projector: Encoder, views: dict[str, Tensor], *anchors: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            backbone: (N, 3, S, S) to pooled features (N, F).
            projector: (N, F) to embeddings (N, D).
            views: `positive` and `negative`; also `spd_anchor` if the anchor is the plain crop.
            anchors: embeddings (B, D) of the strong views. The first is the anchor, or all of them if SPD is
                symmetric.

        Returns:
            `loss_spd` and `spd_accuracy`; empty if there are no SPD views.
        """
        if "positive" not in views:
            return {}
        if self.classifier is not None:
            return spot_loss(*self._pair(lambda images: self.classifier(self._read(backbone, images)), views))
        positive, negative = self._pair(lambda images: projector(backbone(images)), views)
        if "spd_anchor" in views:
            anchors = (projector(backbone(views["spd_anchor"])),)
        anchor = torch.cat(anchors) if self.config.symmetric else anchors[0]
        return spd_loss(anchor.detach() if self.config.detach_anchor else anchor, positive, negative)

    def _pair(self, encode: Encoder, views: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Outputs for positives and negatives, from one joint pass or one pass each, as --spd.batch-norm says."""
        pair = views["positive"], views["negative"]
        if self.config.batch_norm == "apart":
            return tuple(encode(images) for images in pair)
        return encode(torch.cat(pair)).chunk(2)

    def _read(self, backbone: Encoder, images: Tensor) -> Tensor:
        """The input of the binary classifier: the pooled output of a stage, or of the whole backbone."""
        if self.config.layer is None:
            return backbone(images)
        (maps,) = backbone.forward_intermediates(
            images, indices=[self.config.layer], stop_early=True, intermediates_only=True
        )
        return maps.mean((2, 3))


def _stage_width(backbone: nn.Module, stage: int) -> int:
    stages = getattr(backbone, "feature_info", [])
    if not hasattr(backbone, "forward_intermediates") or not 0 <= stage < len(stages):
        raise SpdError(f"--spd.layer {stage}: the stages of this architecture are 0 to {len(stages) - 1}")
    return stages[stage]["num_chs"]
