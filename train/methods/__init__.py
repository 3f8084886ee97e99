"""A method is one module: its forward takes all views of a batch and returns the losses."""

import dataclasses

import torch
from torch import nn

from train.config import Config, MoCo, SimCLR, SimSiam, Supervised
from train.methods.moco import MoCoMethod
from train.methods.simclr import SimCLRMethod
from train.methods.simsiam import SimSiamMethod
from train.methods.supervised import SupervisedMethod


def build_method(config: Config, backbone: nn.Module, classes: int = 0) -> nn.Module:
    """Put the recipe's heads on a backbone.

    Args:
        config: the run's configuration; its type names the method.
        backbone: a timm model that returns pooled features, (B, 3, S, S) to (B, F).
        classes: how many labels the data has; only `supervised` asks.

    Raises:
        SpdError: the queue or the batch does not suit the method.
    """
    features = feature_width(backbone, config.data.image_size)
    by_default = "cross_entropy" if isinstance(config, Supervised) else "cosine"
    spd = dataclasses.replace(config.spd, loss=by_default) if config.spd.loss == "auto" else config.spd
    if isinstance(config, SimSiam):
        return SimSiamMethod(backbone, features, config.simsiam, spd)
    if isinstance(config, MoCo):
        return MoCoMethod(backbone, features, config.moco, spd, config.optim.batch_size)
    if isinstance(config, SimCLR):
        return SimCLRMethod(backbone, features, config.simclr, spd)
    assert isinstance(config, Supervised)
    return SupervisedMethod(backbone, features, classes, spd)


@torch.no_grad()
def feature_width(backbone: nn.Module, image_size: int) -> int:
    """Width F of a backbone's pooled features, found by a pass: timm's `num_features` is not it for all models."""
    training = backbone.training
    shape = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    backbone.train(training)
    return shape[-1]
