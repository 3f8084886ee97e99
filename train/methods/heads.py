"""Multi-layer perceptrons on pooled features."""

import itertools
from typing import Literal

from torch import nn


def mlp(widths: list[int], batch_norm: bool, output_norm: Literal["none", "plain", "scale"] = "none") -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, each hidden layer and the output.
        batch_norm: add batch norm to the hidden layers, whose linear layers then have no bias.
        output_norm: add batch norm to the output; plain has neither scale nor shift, scale has no shift.
    """
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (width, next_width) in enumerate(itertools.pairwise(widths)):
        normalised = batch_norm if i < last else output_norm != "none"
        layers.append(nn.Linear(width, next_width, bias=not normalised))
        if normalised:
            layers.append(nn.BatchNorm1d(next_width, affine=i < last or output_norm == "scale"))
            if i == last and output_norm == "scale":
                layers[-1].bias.requires_grad_(False)  # stays 0
        if i < last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
