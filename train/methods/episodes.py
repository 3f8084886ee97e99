"""Episodic SPD: train through the distances by which a detector decides. Ours, not the paper's.

A detector does not compare two images. It compares each patch with all normal patches, as PatchCore does. An
*episode* repeats that in small. Its normal patches come from weak views of one image; its queries are one more weak
view, before and after a local perturbation. With f a patch's features, the score of a position p is

    s(p) = ½ log(min_r ‖f(p) - f(r)‖² + ε),    r over the normal patches,

and the loss asks that every perturbed position stands out from the normal ones:

    L = mean over perturbed p of ½ mean_h σ(s(h) - s(p)) + ½ mean_n σ(s(n) - s(p)),    σ(x) = T · softplus(x / T)

where n runs over the positions of the unperturbed query, and h over the hardest twentieth of them: those decide where
a threshold has to lie.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR = 1e-4  # ε, as a fraction of the patches' mean squared norm: bounds the logarithm
_HARD = 0.05  # share of the normal positions that count as hard
_COVERED = 0.1  # a position counts as perturbed if alpha covers more than this fraction of its cell


def patches(maps: list[Tensor]) -> Tensor:
    """PatchCore's patches: 3 x 3 means, resized to the finest grid and concatenated.

    Args:
        maps: (B, C_l, H_l, W_l), the finest first.

    Returns:
        float32 (B, H_0 · W_0, sum of C_l).
    """
    pooled = [F.avg_pool2d(m.float(), 3, 1, 1) for m in maps]
    grid = pooled[0].shape[-2:]
    return torch.cat([_resized(m, grid) for m in pooled], 1).flatten(2).mT


def _resized(maps: Tensor, grid: torch.Size) -> Tensor:
    """Resize bilinearly, by matrix products: on a GPU, the gradient of `interpolate` is not reproducible."""
    if maps.shape[-2:] == grid:
        return maps
    rows, columns = (
        F.interpolate(torch.eye(n, device=maps.device)[None], size=size, mode="linear")[0].T
        for n, size in zip(maps.shape[-2:], grid, strict=True)
    )
    return rows @ maps @ columns.T


def scores(queries: Tensor, normal: Tensor) -> Tensor:
    """s(p): half the logarithm of the squared distance to the nearest normal patch of the same episode.

    Args:
        queries: (B, P, C).
        normal: (B, R, C).

    Returns:
        (B, P). Gradients reach both patches of a pair.
    """
    with torch.no_grad():
        nearest = F.one_hot(torch.cdist(queries, normal).argmin(2), normal.shape[1])
        unit = normal.square().sum(2).mean()
    # A product with one-hot rows selects exactly; on a GPU, the gradient of an index is not reproducible.
    squared = (queries - nearest.to(normal.dtype) @ normal).square().sum(2)
    return 0.5 * (squared + _FLOOR * unit).log()


def ranking_loss(normal: Tensor, perturbed: Tensor, alpha: Tensor, temperature: float) -> dict[str, Tensor]:
    """The loss L above.

    Args:
        normal: scores of the unperturbed query, (B, H, W).
        perturbed: scores of the perturbed query, (B, H, W).
        alpha: where it was perturbed, (B, 1, S, S) in [0, 1].
        temperature: T, in units of the scores.

    Returns:
        `loss_spd`, the mean over the batch, 0 for images whose perturbation is too small for the grid;
        `spd_accuracy`, the share of images in which the highest score lies at a perturbed position of the perturbed
        query and not in the unperturbed one.
    """
    covered = F.adaptive_avg_pool2d(alpha, perturbed.shape[1:]).flatten(1)
    weight = (covered.clamp(max=0.5) * 2).where(covered > _COVERED, 0)
    normal, perturbed = normal.flatten(1), perturbed.flatten(1)
    hard = normal.topk(max(1, round(_HARD * normal.shape[1])), 1).values
    against = [
        (F.softplus((n[:, :, None] - perturbed[:, None]) / temperature) * temperature).mean(1) for n in (hard, normal)
    ]
    loss = (sum(against) / 2 * weight).sum(1) / weight.sum(1).clamp(min=_COVERED)
    found = perturbed.masked_fill(weight == 0, -torch.inf).amax(1) > normal.amax(1)
    return {"loss_spd": loss.mean(), "spd_accuracy": found.float().mean().detach()}
