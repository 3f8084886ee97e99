"""Greedy k-centre selection, exact, without touching every point for every centre."""

import torch
from torch import Tensor

_ACTIVE = 2048  # points among which the next centres are looked for; more cost time a centre, fewer a pass
_CHUNK = 1024  # rows updated at once: their distances to a round's centres fit the cache
_ROUND = 1024  # centres at most between two passes over all points
_ROUNDING = 1e-5  # bound of float32's error in a product of 128 to 2048 terms, relative to the norms


def greedy_coreset(points: Tensor, count: int, start: int) -> Tensor:
    """Select points one by one, each the farthest from all selected before (Gonzalez, 1985).

    The plain algorithm reads every point for every centre. Here, distances kept from an earlier pass are
    upper bounds of the present ones: while the farthest of a few thousand *active* points is farther than
    the bound of all others, it is the farthest of all, and no other point need be looked at. What the
    others missed is made up for in one matrix product a round, which only finds the centres that may be
    nearer; distances themselves are always sums of squared differences. So the selection is the plain
    algorithm's, computed in float32, ties going to the lowest index.

    Args:
        points: float32 [N, D].
        count: Points to select, 1 to N.
        start: Index of the first.

    Returns:
        Indices in the order of selection, distinct, int64 [count].
    """
    centred = points - points.mean(dim=0)
    norms = centred.square().sum(dim=1)
    nearest = points.new_full((len(points),), torch.inf)  # squared distance to the nearest centre
    nearest[start] = -1  # never again the farthest, even among duplicates
    selected = [start]
    new = selected
    while len(selected) < count:
        _update(nearest, points, centred, norms, torch.tensor(new, device=points.device))
        new = _next_centres(nearest, points, centred, norms, min(_ROUND, count - len(selected)))
        nearest[torch.tensor(new, device=points.device)] = -1
        selected = selected + new
    return torch.tensor(selected)


def _next_centres(nearest: Tensor, points: Tensor, centred: Tensor, norms: Tensor, limit: int) -> list[int]:
    """The next centres, as many as the active points alone decide, at least one."""
    beyond = min(_ACTIVE, len(nearest) - 1)
    bound = float(nearest.topk(beyond + 1).values[-1])
    active = (nearest > bound).nonzero()[:, 0]
    new = [int(nearest.argmax())]
    nearest[new[0]] = -1
    distances, candidates, products = nearest[active], points[active], centred[active]
    least = (1 - _ROUNDING) * norms[active]
    while len(new) < limit and len(active):
        centre = new[-1]
        below = torch.addmv(least, products, centred[centre], alpha=-2).add_((1 - _ROUNDING) * norms[centre])
        near = (below <= distances).nonzero()[:, 0]
        difference = candidates[near] - points[centre]
        distances[near] = torch.minimum(distances[near], difference.square_().sum(dim=1))
        distance, farthest = distances.max(dim=0)
        if distance <= bound:
            break
        new.append(int(active[farthest]))
        distances[farthest] = -1
    return new


def _update(nearest: Tensor, points: Tensor, centred: Tensor, norms: Tensor, new: Tensor) -> None:
    """Take new centres into account, in place."""
    centres, centre_norms = centred[new], norms[new]
    slack = _ROUNDING * (norms + centre_norms.max())
    for first in range(0, len(points), _CHUNK):
        rows = slice(first, first + _CHUNK)
        product = torch.addmm(centre_norms, centred[rows], centres.T, alpha=-2)  # distance² - norm of the point
        best = product.amin(dim=1)
        limit = torch.minimum(best + 2 * slack[rows], nearest[rows] - norms[rows] + slack[rows])
        improved = ((best <= limit) & (nearest[rows] > 0)).nonzero()[:, 0]
        row, centre = (product[improved] <= limit[improved, None]).nonzero(as_tuple=True)
        point = improved[row]
        difference = points[first + point] - points[new[centre]]
        nearest[rows].scatter_reduce_(0, point, difference.square_().sum(dim=1), "amin")
