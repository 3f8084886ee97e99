"""A method is one module: its forward takes all views of a batch and returns the losses."""

import torch
from torch import Tensor, nn

from train.config import Config, SimSiam
from train.methods.simsiam import SimSiamMethod

Views = dict[str, Tensor]


def build_method(config: Config, backbone: nn.Module) -> nn.Module:
    """Put the recipe's heads on a backbone.

    Args:
        config: the run's configuration; its type names the method.
        backbone: a timm model that returns pooled features, (B, 3, S, S) to (B, F).
    """
    size = config.data.image_size
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, size, size)).shape[-1]
    backbone.train(training)
    assert isinstance(config, SimSiam)
    return SimSiamMethod(backbone, features, config.simsiam)
