"""Detection with labels: the backbone fine-tuned as a binary classifier."""

from timm.data import resolve_model_data_config
from torch import nn

from .training import Network


def build_classifier(backbone: nn.Module) -> Network:
    """Give a timm model a new head of one logit, whose initial values come from torch's generator.

    Args:
        backbone: With the weights under test; becomes part of the result.
    """
    backbone.reset_classifier(1)
    heads = backbone.get_classifier()
    data = resolve_model_data_config(backbone)
    return Network(backbone, heads if isinstance(heads, tuple) else (heads,), data["mean"], data["std"])
