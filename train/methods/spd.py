"""The SPot-the-Difference regulariser (Zou et al., ECCV 2022, §3.2): one module that every method calls."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError

from ..config import SpdConfig
from .similarity import cosine


def spd_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """Pull the anchor towards its weak augmentation, push it away from the perturbed copy.

    L_SPD = cos(anchor, negative) - cos(anchor, positive), averaged over the batch. The formula has no
    stop-gradient: all three embeddings learn.

    Args:
        anchor: embeddings of the anchor views, (B, D).
        positive: those of their weak global augmentations, (B, D).
        negative: those of their weak global augmentations with a local perturbation, (B, D).

    Returns:
        `loss_spd`, a scalar in [-2, 2], 0 where positive and negative look alike; `spd_accuracy`, the
        share of samples whose negative is further from the anchor than their positive (0.5 = chance).
    """
    to_positive, to_negative = cosine(anchor, positive), cosine(anchor, negative)
    accuracy = (to_positive > to_negative).float().mean()
    return {"loss_spd": (to_negative - to_positive).mean(), "spd_accuracy": accuracy.detach()}


def spot_loss(positive_logits: Tensor, negative_logits: Tensor) -> dict[str, Tensor]:
    """Tell perturbed from merely weakly augmented images: cross-entropy of a binary classifier.

    Args:
        positive_logits: of unperturbed images, (B, 2); class 0 is right.
        negative_logits: of perturbed images, (B, 2); class 1 is right.

    Returns:
        `loss_spd`, ln 2 at chance; `spd_accuracy`, the share of images told right (0.5 = chance).
    """
    logits = torch.cat([positive_logits, negative_logits])
    perturbed = torch.arange(2, device=logits.device).repeat_interleave(len(positive_logits))
    accuracy = (logits.argmax(1) == perturbed).float().mean()
    return {"loss_spd": F.cross_entropy(logits, perturbed), "spd_accuracy": accuracy.detach()}


Encoder = Callable[[Tensor], Tensor]


class SpotTheDifference(nn.Module):
    """Encodes the SPD views and computes the loss; nothing where a batch has no SPD views."""

    def __init__(self, backbone: nn.Module, features: int, config: SpdConfig) -> None:
        """Choose the form of the loss.

        Args:
            backbone: a timm model; it is asked for the width of a stage, not kept.
            features: width of its pooled features.
            config: the SPD options; `loss` has to be resolved.

        Raises:
            SpdError: the backbone has no such stage for the binary classifier to read.
        """
        super().__init__()
        self.config = config
        self.classifier = None
        if config.loss == "cross_entropy" and config.weight > 0:
            width = features if config.layer is None else _stage_width(backbone, config.layer)
            self.classifier = nn.Linear(width, 2)

    def forward(
        self, backbone: Encoder, projector: Encoder, views: dict[str, Tensor], *anchors: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            backbone: (N, 3, S, S) to pooled features (N, F).
            projector: (N, F) to embeddings (N, D).
            views: with `positive` and `negative`; with an anchor view of its own, `spd_anchor`.
            anchors: embeddings (B, D) of the strong views; the first is the anchor, all of them where SPD
                is symmetric.

        Returns:
            `loss_spd` and `spd_accuracy`, or nothing.
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
        """The positives' and the negatives' outputs, of one pass or of a pass each: batch norm sees the difference."""
        pair = views["positive"], views["negative"]
        if self.config.batch_norm == "apart":
            return tuple(encode(images) for images in pair)
        return encode(torch.cat(pair)).chunk(2)

    def _read(self, backbone: Encoder, images: Tensor) -> Tensor:
        """What the binary classifier reads: the pooled output of a stage, or of the whole backbone."""
        if self.config.layer is None:
            return backbone(images)
        (maps,) = backbone.forward_intermediates(
            images, indices=[self.config.layer], stop_early=True, intermediates_only=True
        )
        return maps.mean((2, 3))


def _stage_width(backbone: nn.Module, stage: int) -> int:
    stages = getattr(backbone, "feature_info", [])
    if not hasattr(backbone, "forward_intermediates") or not 0 <= stage < len(stages):
        raise SpdError(f"--spd.layer {stage}: this architecture has the stages 0 to {len(stages) - 1}")
    return stages[stage]["num_chs"]
