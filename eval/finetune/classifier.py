"""Detection with labels: the backbone fine-tuned as a binary classifier."""

from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from .training import Network


class Classifier(Network):
    """A timm model with a new head of one logit, whose initial values come from torch's generator."""

    segments = False

    def __init__(self, backbone: nn.Module, image_size: int) -> None:
        """Replace the head.

        Args:
            backbone: A timm model with the weights under test; becomes part of the network.
            image_size: Not needed: any size that the backbone accepts.
        """
        backbone.reset_classifier(1)
        heads = backbone.get_classifier()
        data = resolve_model_data_config(backbone)
        super().__init__(backbone, heads if isinstance(heads, tuple) else (heads,), data["mean"], data["std"])

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Binary cross-entropy of logits and labels, float32 [B]."""
        return F.binary_cross_entropy_with_logits(logits, truth)
