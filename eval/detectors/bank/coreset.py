"""Greedy k-centre selection: exactly the plain algorithm's result, without visiting every point for every centre."""

import torch
from torch import Tensor

_ACTIVE = 2048  # candidates for the next centres; more take longer per centre, fewer need more passes
_CHUNK = 1024  # rows updated together: their distances to a round's centres fit into the cache
_ROUND = 1024  # maximum number of centres between two passes over all points
_ROUNDING = 1e-5  # bound of float32's error in a product of 128 to 2048 terms, relative to the norms


def greedy_coreset(points: Tensor, count: int, start: int) -> Tensor:
    """Select points one by one, each the farthest from all selected before (Gonzalez, 1985).

    The plain algorithm reads every point for every centre. Distances only shrink as centres are added, so a distance
    from an earlier pass is an upper bound. Here, only the few thousand *active* points with the largest distances are
    read, as long as the farthest of them is farther than the bound of all others: it is then the farthest of all. After
    each such round, one matrix product finds which of its centres may be nearer to which points, and their distances
    are computed as sums of squared differences. The selection is therefore that of the plain algorithm in float32, with
    ties broken by the lowest index.

    Args:
        points: float32 [N, D].
        count: Number of points to select, 1 to N.
        start: Index of the first.

    Returns:
        Distinct indices in the order of selection, int64 [count].
    """
    centred = points - points.mean(dim=0)
    norms = centred.square().sum(dim=1)
    nearest = points.new_full((len(points),), torch.inf)  # squared distance to the nearest centre
    nearest[start] = -1  # excludes it from now on, even among duplicates
    selected = [start]
    new = selected
    while len(selected) < count:
        _update(nearest, points, centred, norms, torch.tensor(new, device=points.device))
        new = _next_centres(nearest, points, centred, norms, min(_ROUND, count - len(selected)))
        nearest[torch.tensor(new, device=points.device)] = -1
        selected = selected + new
    return torch.tensor(selected)


def _next_centres(nearest: Tensor, points: Tensor, centred: Tensor, norms: Tensor, limit: int) -> list[int]:
    """Select the next centres, for as long as the active points alone decide which is farthest; at least one."""
    beyond = min(_ACTIVE, len(nearest) - 1)
    bound = float(nearest.topk(beyond + 1).values[-1])
    active = (nearest > bound).nonzero()[:, 0]
    new = [int(nearest.argmax())]
    nearest[new[0]] = -1
    distances, candidates, products = nearest[active], points[active], centred[active]
    minimum = (1 - _ROUNDING) * norms[active]
    while len(new) < limit and len(active):
        centre = new[-1]
        below = torch.addmv(minimum, products, centred[centre], alpha=-2).add_((1 - _ROUNDING) * norms[centre])
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
    """Lower the distances in `nearest` where one of the new centres is nearer."""
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
