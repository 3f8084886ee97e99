"""The optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from timm.optim import Lars
from torch import nn

from .config import OptimConfig


def make_optimizer(method: nn.Module, config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    """Build the optimiser over all trainable parameters.

    After warm-up, the learning rate of a predictor is constant: SimSiam's recommended setting (`--fix-pred-lr` in
    the official code, which has no warm-up). LARS and AdamW exclude biases and norms (tensors of one
    dimension) from weight decay; LARS also excludes them from layer-wise scaling, as in SimCLR.

    Args:
        method: the module to train.
        config: optimiser, momentum and weight decay.
        fused: use one kernel for all parameters, where the device supports it.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            constant_lr = name.startswith("predictor.")
            decays = config.optimizer == "sgd" or parameter.ndim > 1
            groups.setdefault((constant_lr, decays), []).append(parameter)
    parameters = [
        {"params": members, "constant_lr": constant_lr, "weight_decay": config.weight_decay if decays else 0.0}
        for (constant_lr, decays), members in groups.items()
    ]
    if config.optimizer == "lars":
        for group, (_, decays) in zip(parameters, groups, strict=True):
            group["always_adapt"] = decays  # layer-wise scaling, also if --optim.weight-decay is 0
        return Lars(parameters, lr=0.0, momentum=config.momentum)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, fused=fused)
    return torch.optim.SGD(parameters, lr=0.0, momentum=config.momentum, fused=fused)


def peak_learning_rate(config: OptimConfig) -> float:
    """The learning rate at this global batch size, before the schedule."""
    growth = config.batch_size / 256
    return config.lr * {"linear": growth, "sqrt": math.sqrt(growth), "none": 1.0}[config.lr_scaling]


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """The scheduled learning rate of a step, counted from 0.

    The official codes of SimSiam and MoCo change it once per epoch. Changing it every step is our choice,
    because short runs on small data have few epochs.
    """
    peak, warmup = peak_learning_rate(config), config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, (config.steps or config.epochs * steps_per_epoch) - warmup)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "step" and config.milestones:
        return peak * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
    if config.schedule == "step":
        return peak * 0.1 ** int(3 * done)
    return peak


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Set the step's learning rate in every parameter group; returns the scheduled one."""
    scheduled = learning_rate(config, step, steps_per_epoch)
    warming_up = step < config.warmup_epochs * steps_per_epoch
    for group in optimizer.param_groups:
        group["lr"] = peak_learning_rate(config) if group["constant_lr"] and not warming_up else scheduled
    return scheduled
