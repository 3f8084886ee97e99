"""Adaptation of a pre-trained backbone: dense SPD, held close to the starting weights. Ours, not the paper's.

Let f_l(x)_p be the features of image x at position p of the map of stage l (strides 4, 8 and 16), f⁰_l the same of the
starting weights, and v_l the variance of f⁰_l in the batch, summed over channels. With distances in units of v_l,

    d_l(p) = ‖f_l(anchor)_p - f_l(negative)_p‖² / v_l    and    d⁰_l(p) = ‖f_l(anchor)_p - f⁰_l(anchor)_p‖² / v_l,

the whole loss is a mean over images and over the three stages:

    L      = keep_weight · L_keep + η · L_SPD
    L_keep = mean of d⁰_l over all positions
    L_SPD  = log(ε + mean of d_l outside the patch) - log(ε + mean of d_l under the patch)

How this differs from the paper:

- The paper pre-trains from random weights; its base loss is that of SimSiam, MoCo, SimCLR or of labels. Starting from
  good weights takes minutes, but features could be forgotten, so L_keep holds them where they were.
- The paper compares one pooled embedding per image. A change at any position lowers a pooled loss, which blurs where
  a defect is. So SPD compares single positions here.
- The paper's positive is another view. Here the positives are the positions outside the patch, where the negative has
  only been weakly augmented.

An episodic loss, which ranked distances to the nearest normal patch, was tried as well, and lost to this one in PaDiM's
pixel AP (results/adapt_search).
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices

from ..distributed import channel_variance
from ..recipes import AdaptConfig
from .rescale import rescaled

_FLOOR = 0.003  # ε, in units of the starting features' variance: bounds the logarithm
_COVERED = 0.1  # a position counts as changed if the patch covers more than this fraction of its cell


class AdaptMethod(nn.Module):
    """SPD on the maps of three stages; batch norm keeps the starting statistics."""

    def __init__(self, backbone: nn.Module, config: AdaptConfig, image_size: int) -> None:
        """Add a frozen copy of the backbone to measure distances from.

        Args:
            backbone: a timm model with intermediate feature maps.
            config: weights of the losses, factors of the exported maps.
            image_size: side of the images, in pixels.

        Raises:
            SpdError: timm gives no intermediate feature maps of the architecture, or they cannot be scaled as asked.
        """
        super().__init__()
        if not hasattr(backbone, "forward_intermediates"):
            raise SpdError("the recipe adapt needs an architecture with intermediate feature maps in timm")
        indices = stage_indices(backbone)
        self.stages = sorted({indices[reduction] for reduction in DETECTOR_REDUCTIONS})
        self.backbone, self.config = backbone, config
        self.exported()  # refuses impossible factors before the first step
        self.start = copy.deepcopy(backbone).requires_grad_(False)
        self._freeze_unread_layers(image_size)

    def _freeze_unread_layers(self, image_size: int) -> None:
        """Freeze the layers that no map depends on; a backward pass through the maps finds them."""
        maps = self._maps(self.backbone.eval(), torch.zeros(1, 3, image_size, image_size))
        sum(m.sum() for m in maps).backward()
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def train(self, mode: bool = True) -> "AdaptMethod":
        """Set the mode, but keep batch norm in evaluation mode: small batches would degrade its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: from `train.views.views.ViewMaker`: `anchor` (B, 3, S, S), normalised, and with SPD also the
                equally large `negative` and `alpha` (B, 1, S, S), which says where it was perturbed.

        Returns:
            `loss_base`, keep_weight · L_keep, 0 at first; `features`, the pooled stages (B, F), detached; with SPD
            also `loss_spd` and `spd_accuracy`, the means of `dense_spd_loss` over the stages.
        """
        with torch.no_grad():
            starting = self._maps(self.start, views["anchor"])
        variances = [channel_variance(m).sum() for m in starting]
        images = [views[name] for name in ("anchor", "negative") if name in views]
        both = self._maps(self.backbone, torch.cat(images))
        anchor, *negative = zip(*(m.split(len(views["anchor"])) for m in both), strict=True)
        losses = {
            "loss_base": self.config.keep_weight * _mean([d.mean() for d in _distances(anchor, starting, variances)]),
            "features": torch.cat([m.detach().mean((2, 3)) for m in anchor], 1),
        }
        if negative:
            found = [dense_spd_loss(d, views["alpha"]) for d in _distances(anchor, *negative, variances)]
            losses |= {name: _mean([of_stage[name] for of_stage in found]) for name in found[0]}
        return losses

    def exported(self) -> nn.Module:
        """The backbone to export: with --adapt.scales a copy with rescaled maps."""
        names = [self.backbone.feature_info[stage]["module"] for stage in self.stages]
        return rescaled(self.backbone, names, self.config.scales) if self.config.scales else self.backbone

    def _maps(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        return model.forward_intermediates(images, indices=self.stages, stop_early=True, intermediates_only=True)


def _mean(of_stages: list[Tensor]) -> Tensor:
    return torch.stack(of_stages).mean()


def _distances(some: Sequence[Tensor], others: Sequence[Tensor], variances: list[Tensor]) -> list[Tensor]:
    return [distances(a, b, variance) for a, b, variance in zip(some, others, variances, strict=True)]


def distances(a: Tensor, b: Tensor, variance: Tensor) -> Tensor:
    """Squared distance of two maps at each position, in units of a variance: (B, C, H, W) to float32 (B, H, W)."""
    return (a.float() - b.float()).square().sum(1) / variance


def dense_spd_loss(distances: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """Make two maps of a stage differ where the image was perturbed, and agree everywhere else: L_SPD above.

    It is a ratio of distances, so scaling all features gains nothing, and a subtle patch counts as much as a strong
    one. Under the patch, a position's weight grows with the covered share of its cell, and is full from a half on. A
    share of up to a tenth counts on neither side. If the patch is too small for the map's grid, only the positions
    outside contribute.

    Args:
        distances: between the maps of the anchor and the perturbed image, (B, H, W), >= 0.
        alpha: where the image was perturbed, (B, 1, S, S) in [0, 1].

    Returns:
        `loss_spd`, the mean over the batch; `spd_accuracy`, the share of images whose maps differ more under the
        patch than outside.
    """
    covered = F.adaptive_avg_pool2d(alpha, distances.shape[1:])[:, 0]
    changed = (covered.clamp(max=0.5) * 2).where(covered > _COVERED, 0)
    same = (covered == 0).float()
    near, far = (
        (distances * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=_COVERED) for weight in (same, changed)
    )
    loss = (near + _FLOOR).log() - (far + _FLOOR).log()
    return {"loss_spd": loss.mean(), "spd_accuracy": (far > near).float().mean().detach()}
