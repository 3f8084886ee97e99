"""The SPot-the-Difference regulariser (Zou et al., ECCV 2022, §3.2)."""

import torch.nn.functional as F
from torch import Tensor


def spd_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """Pull the anchor towards its weak augmentation, push it away from the perturbed copy.

    L_SPD = cos(anchor, negative) - cos(anchor, positive), averaged over the batch. The formula has no
    stop-gradient: all three embeddings learn.

    Args:
        anchor: projector outputs of the anchor view, (B, D).
        positive: those of its weak global augmentation, (B, D).
        negative: those of its weak global augmentation with a local perturbation, (B, D).

    Returns:
        `loss_spd`, a scalar in [-2, 2], 0 where positive and negative look alike; `spd_accuracy`, the
        share of samples whose negative is further from the anchor than their positive (0.5 = chance).
    """
    to_positive = F.cosine_similarity(anchor, positive)
    to_negative = F.cosine_similarity(anchor, negative)
    accuracy = (to_positive > to_negative).float().mean()
    return {"loss_spd": (to_negative - to_positive).mean(), "spd_accuracy": accuracy.detach()}
