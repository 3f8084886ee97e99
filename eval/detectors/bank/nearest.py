"""Exact search for nearest patches that computes only a fraction of the distances to a large bank."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..patches import BLOCK_FLOATS

_GROUP = 128  # patches of the bank whose distances are reduced together
_CELL = 1024  # mean number of patches per cell; in smaller cells, selecting rows costs more than it saves
_CELLS = 16  # maximum; each cell adds about 46 nodes to an exported graph
_ROUNDS = 5  # of k-means; more hardly improve the cells
_SAMPLE = 128  # patches of the bank with which the cells are tried
_WORTHWHILE = 1 / 3  # largest share of the bank that these may visit; with more, cells save little or no time
_ROUNDING = 1e-5  # bound of float32's error in a product of up to 2048 terms, relative to the squared norms


def nearest_patches(bank: Tensor) -> "NearestPatches":
    """The fastest search for this bank: with cells if it is large and a sample of its patches visits few of them.

    Args:
        bank: float32 [M, C], M at least 1.
    """
    cells = min(_CELLS, len(bank) // _CELL)
    if cells > 1:
        search = NearestPatches(bank, cells)
        if search.visited(bank[:: -(-len(bank) // _SAMPLE)]) <= _WORTHWHILE:
            return search
    return NearestPatches(bank, 1)


class NearestPatches(nn.Module):
    """The patches of a bank, divided into cells by k-means; a search visits only cells that may hold the nearest.

    Each patch y of the bank is in the cell of its nearest centre. For a patch x, let a be the nearest centre, and u the
    distance to the nearest y in a's cell. The cell of another centre c lies beyond the plane halfway between a and c,
    so that no y in it is nearer to x than that plane:

        |x − y| ≥ (|x − c|² − |x − a|²) / (2 |a − c|).

    Where this bound exceeds u, the cell is skipped. Only CPUs gain from this. Other devices search all cells.
    """

    def __init__(self, bank: Tensor, cells: int) -> None:
        """Divide a bank.

        Args:
            bank: float32 [M, C], M at least 1.
            cells: Maximum number of cells, 1 to M.
        """
        super().__init__()
        origin = bank.mean(dim=0)
        centred = bank - origin  # because then products lose fewer digits
        centres, cell_of = _k_means(centred, cells)
        members = [(cell_of == cell).nonzero()[:, 0] for cell in range(len(centres))]
        padded = [F.pad(rows, (0, -len(rows) % _GROUP)) for rows in members]  # with any index: it is never found
        self._sizes = [len(rows) for rows in padded]
        self._constant("origin", origin)
        self._constant("order", torch.cat(padded))
        self._constant("centres", _columns(centres))
        self._constant("twice_between", 2 * (centres[:, None] - centres).norm(dim=2))
        self._constant("largest", centred.square().sum(dim=1).amax())
        for cell, rows in enumerate(members):
            self._constant(f"cell_{cell}", _columns(centred[rows], _GROUP))

    def forward(self, patches: Tensor) -> Tensor:
        """Index of each patch's nearest patch in the bank.

        Rounding can only confuse patches whose squared distances differ by about 1e-6 of their squared norms.

        Args:
            patches: float32 [P, C].

        Returns:
            int64 [P].
        """
        if torch.compiler.is_exporting():  # a graph cannot split batches of any size
            return self._nearest(patches)
        chunks = patches.split(max(1, BLOCK_FLOATS // len(self.order)))
        return torch.cat([self._nearest(chunk) for chunk in chunks])

    def neighbours(self, patches: Tensor, count: int) -> Tensor:
        """Indices of the `count` nearest patches of the bank, int64 [P, count], the nearest first.

        Args:
            patches: float32 [P, C]; few, because all P x M distances are in memory.
            count: 1 to M.
        """
        return self.order[self._products(self._extended(patches)).topk(count, largest=False).indices]

    def visited(self, sample: Tensor) -> float:
        """Share of the bank in the cells that patches of the bank visit to find another than themselves, on average."""
        extended = self._extended(sample)
        second = self._products(extended).topk(2, largest=False).values[:, 1]
        visits = self._visits(extended, second)
        sizes = torch.tensor(self._sizes, device=visits.device)
        return float((visits * sizes).sum() / (len(sample) * len(self.order)))

    def _nearest(self, patches: Tensor) -> Tensor:
        extended = self._extended(patches)
        if len(self._sizes) == 1 or patches.device.type != "cpu":
            _, group, members = _smallest(self._products(extended))
            return self.order[_place(group, members)]
        own = F.one_hot((extended @ self.centres).argmin(dim=1), len(self._sizes)).bool()
        pairs, products, _, _ = near = self._search(extended, own)
        smallest = _table(pairs, products, own, torch.inf).amin(dim=1)
        far = self._search(extended, self._visits(extended, smallest) & ~own)
        pairs, products, groups, members = (torch.cat(both) for both in zip(near, far, strict=True))
        # Of the pairs of each patch, the one with the smallest product.
        cell = _table(pairs, products, own, torch.inf).argmin(dim=1)
        found = _table(pairs, torch.arange(pairs.shape[0]), own, 0).gather(1, cell[:, None])[:, 0]
        return self.order[_place(groups[found], members[found])]

    def _visits(self, extended: Tensor, products: Tensor) -> Tensor:
        """Whether each cell may hold a patch with a smaller product than the given [P], bool [P, cells]."""
        norms = extended[:, :-1].square().sum(dim=1)
        rounding = _ROUNDING * (norms + self.largest)
        distances = (products + norms + rounding).sqrt()
        to_centres = extended @ self.centres
        to_nearest, nearest = to_centres.min(dim=1)
        return to_centres - (to_nearest + rounding)[:, None] <= distances[:, None] * self.twice_between[nearest]

    def _search(self, extended: Tensor, visits: Tensor) -> list[Tensor]:
        """The smallest product of each patch with each cell that it visits, bool [P, cells].

        Returns:
            Of each such pair: its index in [P, cells], int64 [N]; what `_smallest` returns, with groups of all cells.
        """
        found, first = [], 0
        for cell, columns in enumerate(self._cells()):
            rows = visits[:, cell].nonzero()[:, 0]
            product, group, members = _smallest(extended[rows] @ columns)
            found.append((rows * len(self._sizes) + cell, product, group + first, members))
            first += self._sizes[cell] // _GROUP
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _products(self, extended: Tensor) -> Tensor:
        """Squared distances to the bank in the order of `order`, less the patches' squared norms, [P, M']."""
        products = [extended @ columns for columns in self._cells()]
        return torch.cat(products, dim=1) if len(products) > 1 else products[0]  # cat would copy it

    def _extended(self, patches: Tensor) -> Tensor:
        """Left factor of the products that `_columns` describes."""
        return F.pad(patches - self.origin, (0, 1), value=1.0)

    def _cells(self) -> list[Tensor]:
        return [getattr(self, f"cell_{cell}") for cell in range(len(self._sizes))]

    def _constant(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)


def _k_means(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Centres [K, C], K at most `count`, and the index of each point's nearest centre [M]. No cell is empty.

    The first centres are points at equal intervals: no seed decides how long a search takes.
    """
    centres = points[torch.arange(count, device=points.device) * len(points) // count]
    for _ in range(_ROUNDS):
        cell_of = _nearest_centres(points, centres)
        sizes = torch.bincount(cell_of, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add(0, cell_of, points)
        centres = sums[sizes > 0] / sizes[sizes > 0, None]
    inhabited, cell_of = _nearest_centres(points, centres).unique(return_inverse=True)
    return centres[inhabited], cell_of


def _nearest_centres(points: Tensor, centres: Tensor) -> Tensor:
    return (points @ (-2 * centres.T) + centres.square().sum(dim=1)).argmin(dim=1)


def _columns(points: Tensor, multiple: int = 1) -> Tensor:
    """Right factor of a product that holds squared distances: (x, 1) times the column (−2 y, |y|²) is |x − y|² − |x|².

    Columns are contiguous, which multiplies faster. Columns that are far from everything follow until their number is a
    multiple of `multiple`.

    Args:
        points: float32 [M, C].

    Returns:
        float32 [C + 1, M'].
    """
    columns = torch.cat([-2 * points.T, points.square().sum(dim=1)[None]])
    padded = F.pad(columns, (0, -len(points) % multiple))
    padded[-1, len(points) :] = torch.finfo(padded.dtype).max
    return padded


def _table(pairs: Tensor, values: Tensor, like: Tensor, fill: float) -> Tensor:
    """The values of some pairs of patch and cell as a table of all of them, [P, cells] as `like`."""
    return torch.full_like(like, fill, dtype=values.dtype).flatten().scatter(0, pairs, values).view_as(like)


def _smallest(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum of each row [P, M'], its group of `_GROUP` columns and the members of that group [P, _GROUP].

    Its place is left to `_place`: minima alone are faster.
    """
    grouped = products.unflatten(1, (-1, _GROUP))
    minimum, group = grouped.amin(dim=2).min(dim=1)
    return minimum, group, grouped.gather(1, group[:, None, None].expand(-1, -1, _GROUP))[:, 0]


def _place(group: Tensor, members: Tensor) -> Tensor:
    """Column of the smallest member of a group."""
    return group * _GROUP + members.argmin(dim=1)
