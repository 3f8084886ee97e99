"""A method is one module: its forward takes all views of a batch and returns the losses."""

import dataclasses

import torch
from torch import nn

from train.config import Adapt, Config, MoCo, SimCLR, SimSiam, SpdConfig, Supervised
from train.methods.adapt import AdaptMethod
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
    if isinstance(config, Adapt):
        return AdaptMethod(backbone, config.adapt, config.data.image_size)
    features = feature_width(backbone, config.data.image_size)
    spd = _resolved(config)
    if isinstance(config, SimSiam):
        return SimSiamMethod(backbone, features, config.simsiam, spd)
    if isinstance(config, MoCo):
        return MoCoMethod(backbone, features, config.moco, spd, config.optim.batch_size // config.optim.accumulate)
    if isinstance(config, SimCLR):
        return SimCLRMethod(backbone, features, config.simclr, spd)
    assert isinstance(config, Supervised)
    return SupervisedMethod(backbone, features, classes, spd)


def _resolved(config: Config) -> SpdConfig:
    """The SPD options with the method's own form of the loss."""
    if config.spd.loss != "auto":
        return config.spd
    return dataclasses.replace(config.spd, loss="cross_entropy" if isinstance(config, Supervised) else "cosine")


@torch.no_grad()
def feature_width(backbone: nn.Module, image_size: int) -> int:
    """Width F of a backbone's pooled features, found by a pass: timm's `num_features` is not it for all models."""
    training = backbone.training
    shape = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    backbone.train(training)
    return shape[-1]
