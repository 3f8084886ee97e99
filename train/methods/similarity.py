"""Similarities of embeddings, in float32 also where the passes through the model are in half precision.

A positive and a negative differ by less than bfloat16 can tell; the official codes compute their logits in
full precision, too.
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
    """Rows of (B, D) at length 1."""
    return F.normalize(_full(x))


def products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all rows of (N, D) with all rows of (M, D): (N, M)."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T
