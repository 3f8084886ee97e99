"""Similarities of embeddings, always at least in float32, even if the model runs in half precision.

The difference between a positive and a negative is smaller than bfloat16 can resolve. The official codes also
compute their logits in full precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of the rows of (B, D) and (B, D): (B,)."""
    return F.cosine_similarity(_full(a), _full(b))


def unit(x: Tensor) -> Tensor:
    """L2-normalise the rows of (B, D)."""
    return F.normalize(_full(x))


def products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of each row of (N, D) with each row of (M, D): (N, M)."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T
