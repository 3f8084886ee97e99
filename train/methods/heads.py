"""Multi-layer perceptrons on pooled features."""

import itertools

from torch import nn


def mlp(widths: list[int], batch_norm: bool, output_norm: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, of each hidden layer and of the output.
        batch_norm: normalise the hidden layers; their linear layers then need no bias.
        output_norm: normalise the output, without scale and shift.
    """
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (width, next_width) in enumerate(itertools.pairwise(widths)):
        normalised = batch_norm if i < last else output_norm
        layers.append(nn.Linear(width, next_width, bias=not normalised))
        if normalised:
            layers.append(nn.BatchNorm1d(next_width, affine=i < last))
        if i < last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
