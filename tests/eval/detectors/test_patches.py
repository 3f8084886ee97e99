"""Patch features as PatchCore's authors compute them, step by step."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eval.detectors.patches import pooled_patches_of


def authors(layers):
    """amazon-science/patchcore-inspection: _embed, PatchMaker.patchify, Preprocessing and Aggregator."""
    grid = layers[0].shape[-2:]
    pooled = []
    for layer in layers:
        padded = np.pad(layer, ((0, 0), (0, 0), (1, 1), (1, 1)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [B, C, H, W, 3, 3]
        images, _, height, width = view.shape[:4]
        each = torch.from_numpy(view.transpose(0, 1, 4, 5, 2, 3).reshape(images, -1, height, width).copy())
        grown = F.interpolate(each, size=grid, mode="bilinear", align_corners=False)
        pooled.append(np.stack([bins(vector, 1024) for vector in grown.permute(0, 2, 3, 1).flatten(0, 2).numpy()]))
    return np.stack([bins(vector, 1024) for vector in np.concatenate(pooled, axis=1)])


def bins(vector, count):
    """Adaptive average pooling: bin i covers floor(i n / count) to ceil((i + 1) n / count)."""
    n = len(vector)
    return np.array([vector[i * n // count : -((-(i + 1) * n) // count)].mean() for i in range(count)])


@pytest.mark.parametrize("channels", [(128, 256), (40, 100)])
def test_pooled_patches_are_the_authors(channels):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(2, c, side, side)) for c, side in zip(channels, (4, 2), strict=True)]
    found = pooled_patches_of([torch.from_numpy(layer) for layer in layers])
    assert found.shape == (2, 4, 4, 1024)
    np.testing.assert_allclose(found.flatten(0, 2), authors(layers), rtol=1e-9, atol=1e-9)
