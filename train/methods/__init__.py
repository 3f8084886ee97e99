"""A method is one module whose forward takes all views of a batch and returns the losses."""

import dataclasses

import torch
from torch import Tensor, nn

from spd_weights.errors import SpdError

from ..config import Config, SpdConfig
from ..recipes import Adapt, Linear, MoCo, SimCLR, SimSiam, Supervised
from .adapt import AdaptMethod
from .linear import LinearMethod
from .moco import MoCoMethod
from .simclr import SimCLRMethod
from .simsiam import SimSiamMethod
from .supervised import SupervisedMethod


def build_method(config: Config, backbone: nn.Module, classes: int = 0) -> nn.Module:
    """Build the recipe's method on top of a backbone.

    Args:
        config: the run's configuration; its type determines the method.
        backbone: a timm model that returns pooled features, (B, 3, S, S) to (B, F).
        classes: number of labels in the data; used by `supervised` only.

    Raises:
        SpdError: an option does not fit the method, the architecture or the batch.
    """
    if isinstance(config, Adapt):
        return AdaptMethod(backbone, config.adapt, config.data.image_size)
    width = feature_width(backbone, config.data.image_size)
    spd = _resolved(config)
    if isinstance(config, SimSiam):
        return SimSiamMethod(backbone, width, config.simsiam, spd)
    if isinstance(config, MoCo):
        return MoCoMethod(backbone, width, config.moco, spd, config.optim.batch_size)
    if isinstance(config, SimCLR):
        return SimCLRMethod(backbone, width, config.simclr, spd)
    if isinstance(config, Linear):
        return LinearMethod(backbone, width, classes)
    assert isinstance(config, Supervised)
    return SupervisedMethod(backbone, width, classes, spd)


def after_step(method: nn.Module, out: dict[str, Tensor]) -> None:
    """Update what a method keeps between steps besides parameters; call it after each step that was not skipped."""
    if isinstance(method, MoCoMethod):
        method.after_step(out["keys"])


def check_batch_norm(method: nn.Module, images: int) -> None:
    """Refuse batches that are too small for batch norm. Models without batch norm accept any size.

    Args:
        method: from `build_method`.
        images: number of images per forward pass, on one process.

    Raises:
        SpdError: it is 1, so batch norm would set all features to 0.
    """
    if images < 2 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules()):
        raise SpdError(
            "batch norm needs at least 2 images per process and part: raise --optim.batch-size, use fewer processes, "
            "or lower --optim.accumulate"
        )


def _resolved(config: Config) -> SpdConfig:
    """The SPD options with `loss: auto` replaced by the method's own form."""
    own = "cross_entropy" if isinstance(config, Supervised) else "cosine"
    loss = own if config.spd.loss == "auto" else config.spd.loss
    if config.spd.layer is not None and loss == "cosine":
        raise SpdError("--spd.layer applies to --spd.loss cross_entropy only: cosine compares the projector's outputs")
    return dataclasses.replace(config.spd, loss=loss)


@torch.no_grad()
def feature_width(backbone: nn.Module, image_size: int) -> int:
    """Width F of the pooled features, measured by a forward pass: timm's `num_features` is wrong for some models."""
    training = backbone.training
    shape = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    backbone.train(training)
    return shape[-1]
