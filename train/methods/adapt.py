"""Adaptation of a pre-trained backbone: SPD on feature maps, held close to the starting weights. Ours, not the paper's.

The paper pre-trains from scratch and compares pooled embeddings. Starting from good weights is far cheaper but
has two risks. First, features are forgotten. So the base loss is the distance from the starting features, at
every position of the maps that detectors read. Second, a change at any position lowers a pooled loss, which blurs
where a defect is. So SPD compares single positions here. The loss is

    L = keep_weight · L_keep + η · (episodic · L_episodic + dense · L_dense)

`train.methods.episodes` explains the episodic loss, which is the default, and `dense_spd_loss` the dense one, which
made the weights of results/adapt_caltech101.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices

from ..distributed import channel_variance
from ..recipes import AdaptConfig
from .episodes import patches, ranking_loss, scores
from .rescale import rescaled

_FLOOR = 0.003  # added to distances, in units of the starting features' variance: bounds their logarithm
_COVERED = 0.1  # a position counts as changed if the patch covers more than this fraction of its cell
_IMAGES = ("anchor", "negative", "unperturbed", "positive")

Maps = dict[str, list[Tensor]]
"""The three maps of each view, from the finest to the coarsest."""


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
                equally large `negative`, `alpha` (B, 1, S, S) and, for episodes, `unperturbed` and `positive`
                (K · B, 3, S, S).

        Returns:
            `loss_base`, keep_weight times the mean squared distance from the starting maps, 0 at first; `features`,
            the pooled stages (B, F), detached; with SPD also `loss_spd`, the weighted sum of the episodic and the dense
            loss, and `spd_accuracy`, that of the episodes if there are any.
        """
        with torch.no_grad():
            starting = self._maps(self.start, views["anchor"])
        variances = [channel_variance(m).sum() for m in starting]
        names = [name for name in _IMAGES if name in views]
        together = self._maps(self.backbone, torch.cat([views[name] for name in names]))
        parts = [m.split([len(views[name]) for name in names]) for m in together]
        maps: Maps = {name: list(of_view) for name, of_view in zip(names, zip(*parts, strict=True), strict=True)}
        moved = _distances(maps["anchor"], starting, variances)
        losses = {
            "loss_base": self.config.keep_weight * torch.stack([d.mean() for d in moved]).mean(),
            "features": torch.cat([m.detach().mean((2, 3)) for m in maps["anchor"]], 1),
        }
        if "negative" in views:
            losses |= self._spd(maps, variances, views["alpha"])
        return losses

    def exported(self) -> nn.Module:
        """The backbone to export: with --adapt.scales a copy with rescaled maps."""
        names = [self.backbone.feature_info[stage]["module"] for stage in self.stages]
        return rescaled(self.backbone, names, self.config.scales) if self.config.scales else self.backbone

    def _maps(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        return model.forward_intermediates(images, indices=self.stages, stop_early=True, intermediates_only=True)

    def _spd(self, maps: Maps, variances: list[Tensor], alpha: Tensor) -> dict[str, Tensor]:
        """The weighted sum of the losses that have a weight, and the accuracy of the last one."""
        parts = []
        if self.config.dense:
            of_stages = [dense_spd_loss(d, alpha) for d in _distances(maps["anchor"], maps["negative"], variances)]
            dense = {name: torch.stack([found[name] for found in of_stages]).mean() for name in of_stages[0]}
            parts.append((self.config.dense, dense))
        if self.config.episodic:
            with torch.autocast(alpha.device.type, enabled=False):  # differences of features need full precision
                parts.append((self.config.episodic, self._episodes(maps, alpha)))
        loss = torch.stack([weight * found["loss_spd"] for weight, found in parts]).sum()
        return {"loss_spd": loss, "spd_accuracy": parts[-1][1]["spd_accuracy"]}

    def _episodes(self, maps: Maps, alpha: Tensor) -> dict[str, Tensor]:
        """The episodic loss. As in PatchCore, patches come from the two coarser maps, scaled as in the export."""
        factors = (self.config.scales or (1.0,) * len(self.stages))[-2:]
        read = {
            name: patches([m.float() * factor for m, factor in zip(of_view[-2:], factors, strict=True)])
            for name, of_view in maps.items()
        }
        images, grid = len(alpha), maps["anchor"][-2].shape[-2:]
        normal = torch.cat([read["anchor"], *read["positive"].split(images)], 1)
        unperturbed, perturbed = (scores(read[name], normal).unflatten(1, grid) for name in ("unperturbed", "negative"))
        return ranking_loss(unperturbed, perturbed, alpha, self.config.temperature)


def _distances(some: list[Tensor], others: list[Tensor], variances: list[Tensor]) -> list[Tensor]:
    return [distances(a, b, variance) for a, b, variance in zip(some, others, variances, strict=True)]


def distances(a: Tensor, b: Tensor, variance: Tensor) -> Tensor:
    """Squared distance of two maps at each position, in units of a variance: (B, C, H, W) to float32 (B, H, W)."""
    return (a.float() - b.float()).square().sum(1) / variance


def dense_spd_loss(distances: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """Make two maps differ where the image was perturbed, and agree everywhere else.

    The paper pulls a weak augmentation near and pushes a perturbed one away. In a perturbed image's map, the
    positions outside the patch have only been weakly augmented, so they are the positives; the positions under
    the patch are the negatives. Per image, L = log(mean distance outside) - log(mean distance under the patch).
    It is a ratio, so scaling all features gains nothing, and a subtle patch counts as much as a strong one. If
    the patch is too small for the map's grid, only the positions outside contribute.

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
