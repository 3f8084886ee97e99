"""Nearest-neighbour classification of frozen features (Wu et al., CVPR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 256  # images compared with the whole bank in one matrix product


@torch.no_grad()
def knn_top1(
    features: Tensor,
    labels: Tensor,
    bank: tuple[Tensor, Tensor] | None = None,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of images whose label is predicted by their nearest neighbours in a bank.

    A neighbour of cosine similarity s votes with weight exp(s / temperature).

    Args:
        features: (N, D).
        labels: int64 (N,).
        bank: features (M, D) and labels (M,) of the images to search; by default the other N - 1 images.
        neighbours: number of neighbours that vote, at most as many as there are; usual are 20 and 200.
        temperature: usual is 0.07.
    """
    unit = F.normalize(features.float())
    bank_unit, bank_labels = (unit, labels) if bank is None else (F.normalize(bank[0].float()), bank[1])
    classes = int(torch.maximum(bank_labels.max(), labels.max())) + 1
    count = min(neighbours, len(bank_unit) - (bank is None))
    correct = 0
    for start in range(0, len(unit), _ROWS):
        similarity = unit[start : start + _ROWS] @ bank_unit.T
        rows = torch.arange(len(similarity), device=similarity.device)
        if bank is None:
            similarity[rows, rows + start] = -2.0  # an image is not its own neighbour
        cosine, index = similarity.topk(count)
        weights = torch.exp((cosine - 1) / temperature)
        votes = torch.zeros(len(rows), classes, device=weights.device).scatter_add_(1, bank_labels[index], weights)
        correct += int((votes.argmax(1) == labels[start : start + _ROWS]).sum())
    return correct / len(unit)
