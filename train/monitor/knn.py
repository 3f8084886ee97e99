"""Nearest-neighbour classification of frozen features (Wu et al., CVPR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_ROWS = 1024  # images compared with all others in one matrix product


@torch.no_grad()
def knn_top1(features: Tensor, labels: Tensor) -> float:
    """Share of images whose label is predicted by their 20 nearest neighbours among the other images.

    A neighbour of cosine similarity s votes with weight exp(s / 0.07).

    Args:
        features: (N, D), N > 1.
        labels: int64 (N,).
    """
    unit, votes = F.normalize(features.float()), F.one_hot(labels).float()
    correct = 0
    for start in range(0, len(unit), _ROWS):
        similarity = unit[start : start + _ROWS] @ unit.T
        rows = torch.arange(len(similarity), device=similarity.device)
        similarity[rows, rows + start] = -2.0  # an image is not its own neighbour
        cosine, index = similarity.topk(min(_NEIGHBOURS, len(unit) - 1))
        weights = torch.exp((cosine - 1) / _TEMPERATURE)[..., None]
        correct += int(((weights * votes[index]).sum(1).argmax(1) == labels[start : start + _ROWS]).sum())
    return correct / len(unit)
