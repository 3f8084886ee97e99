"""Adaptation of a pre-trained backbone: SPD alone, held close to where it started. Ours, not the paper's.

The paper pre-trains from scratch. Starting from weights that already see well is far cheaper, and the
danger is another one: features forget. So the base loss is not a self-supervised one but the distance
from the starting features, at every position of the maps that detectors read.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError
from train.config import AdaptConfig, SpdConfig
from train.methods.heads import mlp
from train.spd import SpotTheDifference

_REDUCTIONS = (4, 8, 16)  # the maps that PaDiM and PatchCore read: layer1 to layer3 of a ResNet


class AdaptMethod(nn.Module):
    """SPD on the pooled features of three stages; batch norm keeps the statistics that it came with."""

    def __init__(self, backbone: nn.Module, config: AdaptConfig, spd: SpdConfig, image_size: int) -> None:
        """Add a projector, and a frozen copy of the backbone to compare with.

        Args:
            backbone: a timm model with intermediate feature maps.
            config: weight of the distance, width of the projector.
            spd: the SPD options.
            image_size: pixels.

        Raises:
            SpdError: the architecture gives no intermediate feature maps.
        """
        super().__init__()
        if not hasattr(backbone, "forward_intermediates"):
            raise SpdError("the recipe adapt needs an architecture with intermediate feature maps in timm")
        last = {stage["reduction"]: index for index, stage in enumerate(backbone.feature_info)}
        self.stages = [last[reduction] for reduction in _REDUCTIONS if reduction in last] or [len(last) - 1]
        self.backbone, self.keep_weight = backbone, config.keep_weight
        self.start = copy.deepcopy(backbone).requires_grad_(False)
        maps = self._maps(backbone.eval(), torch.zeros(1, 3, image_size, image_size))
        sum(m.sum() for m in maps).backward()
        for parameter in backbone.parameters():  # what lies behind the last stage has nothing to learn
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        width = sum(m.shape[1] for m in maps)
        self.projector = mlp([width, width, config.projector_dim], batch_norm=False)
        self.spd = SpotTheDifference(width, spd)

    def train(self, mode: bool = True) -> "AdaptMethod":
        """Set the mode, but leave batch norm in evaluation: small batches would blur its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: `anchor`, and with SPD also `positive` and `negative`; each (B, 3, S, S), normalised.

        Returns:
            `loss_base`, keep_weight times the mean cosine distance from the starting maps, 0 at the start;
            `features`, the pooled stages (B, F), detached; with SPD also `loss_spd` and `spd_accuracy`.
        """
        maps = self._maps(self.backbone, views["anchor"])
        with torch.no_grad():
            starting = self._maps(self.start, views["anchor"])
        distances = [cosine_distance(now, then) for now, then in zip(maps, starting, strict=True)]
        pooled = _pool(maps)
        spd = self.spd(lambda x: _pool(self._maps(self.backbone, x)), self.projector, views, self.projector(pooled))
        base = self.keep_weight * torch.stack(distances).mean()
        return {"loss_base": base, "features": pooled.detach(), **spd}

    def _maps(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        return model.forward_intermediates(images, indices=self.stages, stop_early=True, intermediates_only=True)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine similarity over dimension 1, averaged: half the squared distance of the unit vectors.

    Written so, its gradient at a = b is exactly 0, where rounding of the plain formula leaves a little
    that Adam would magnify into full steps.
    """
    return (F.normalize(a) - F.normalize(b)).square().sum(1).mean() / 2


def _pool(maps: list[Tensor]) -> Tensor:
    return torch.cat([m.mean((2, 3)) for m in maps], 1)
