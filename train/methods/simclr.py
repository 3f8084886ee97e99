"""SimCLR (Chen et al., ICML 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SpdConfig
from ..distributed import gather_with_gradient, rank
from ..recipes import SimCLRConfig
from .heads import mlp
from .similarity import products, unit
from .spd import SpotTheDifference


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view has to find its partner among all other views.

    Each of the 2N views is an anchor. The other view of the same image is its positive; the 2N - 2 views of other
    images, gathered from all processes with gradient, are its negatives.

    Args:
        z1: embeddings of the first views on this process, (B, D).
        z2: embeddings of the second views, (B, D).
        temperature: divides the cosine similarities.

    Returns:
        The mean over this process's 2B anchors, a scalar; ln(2N - 1) if all embeddings are equal.
    """
    z1, z2 = unit(z1), unit(z2)
    candidates = torch.cat([gather_with_gradient(z1), gather_with_gradient(z2)])
    total, own = len(candidates) // 2, torch.arange(len(z1), device=z1.device) + rank() * len(z1)
    logits = products(torch.cat([z1, z2]), candidates) / temperature
    self_index = torch.cat([own, own + total])
    logits = logits.scatter(1, self_index[:, None], float("-inf"))  # a view is not its own negative
    return F.cross_entropy(logits, torch.cat([own + total, own]))


class SimCLRMethod(nn.Module):
    """Two views of an image attract each other and repel the views of all other images in the batch."""

    def __init__(self, backbone: nn.Module, feature_width: int, config: SimCLRConfig, spd: SpdConfig) -> None:
        """Add the projector of the official code.

        Args:
            backbone: (B, 3, S, S) to (B, F).
            feature_width: width F of the pooled features.
            config: depth and width of the projector, temperature.
            spd: the SPD options.
        """
        super().__init__()
        self.backbone, self.temperature = backbone, config.temperature
        hidden = [feature_width] * (config.projector_layers - 1)
        self.projector = mlp([feature_width, *hidden, config.projector_dim], batch_norm=True, output_norm="scale")
        self.spd = SpotTheDifference(backbone, feature_width, spd)

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            views: as for `SimSiamMethod.forward`.

        Returns:
            `loss_base`, NT-Xent; `features`, the anchors' embeddings (B, D), detached; with SPD also `loss_spd`
            and `spd_accuracy`.
        """
        both = torch.cat([views["anchor"], views["second"]])  # one pass, so that batch norm sees both
        z1, z2 = self.projector(self.backbone(both)).chunk(2)
        spd = self.spd(self.backbone, self.projector, views, z1, z2)
        return {"loss_base": nt_xent(z1, z2, self.temperature), "features": z1.detach(), **spd}
