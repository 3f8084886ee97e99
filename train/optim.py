"""The optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from train.config import OptimConfig


def make_optimizer(method: nn.Module, config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    """SGD over all trainable parameters; a predictor's learning rate is held constant.

    A constant predictor rate is SimSiam's recommended setting (`--fix-pred-lr` of the official code).

    Args:
        method: the module to train.
        config: momentum and weight decay.
        fused: one kernel for all parameters, where the device has one.
    """
    scheduled, constant = [], []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            (constant if name.startswith("predictor.") else scheduled).append(parameter)
    groups = [{"params": scheduled, "constant_lr": False}, {"params": constant, "constant_lr": True}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=0.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, constant: bool = False) -> float:
    """The learning rate of a step (counted from 0): linear in the batch size, cosine over the run.

    The official SimSiam code lowers it once an epoch; every step is our choice, because short runs on
    small data have few epochs.
    """
    peak = config.lr * config.batch_size / 256
    if constant:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch)))


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Write the step's learning rate into every parameter group; returns the scheduled one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps_per_epoch, group["constant_lr"])
    return learning_rate(config, step, steps_per_epoch)
