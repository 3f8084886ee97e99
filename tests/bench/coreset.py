"""PatchCore's greedy coreset against the plain algorithm, in one run, for the same selection.

    python -m tests.bench.coreset --points 40000 --ratio 0.02

The plain algorithm updates the distance of every point for every centre. Points have 128 dimensions, as
after PatchCore's projection, and lie near a curved surface of `--intrinsic` dimensions, as features do.
Prints seconds and their ratio; fails when the selections differ. With anomalib installed, its own
implementation is timed on the same points too (it draws its own start, so selections cannot be compared).
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from eval.coreset import greedy_coreset
from eval.patchcore import PROJECTION


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--ratio", type=float, default=0.02)
    parser.add_argument("--intrinsic", type=int, default=16)
    args = parser.parse_args()
    points, count = near_a_surface(args.points, args.intrinsic), round(args.points * args.ratio)
    print(f"{count} of {args.points} points, {torch.get_num_threads()} threads")
    ours, selected = timed(lambda: greedy_coreset(points, count, 0))
    plain, expected = timed(lambda: plain_greedy(points, count, 0))
    if not torch.equal(selected, expected):
        raise SystemExit(f"the selections differ, first at {int((selected != expected).nonzero()[0])}")
    print(f"ours {ours:.2f} s, plain {plain:.2f} s, ratio {plain / ours:.1f}, same selection")
    try:
        from anomalib.models.components.sampling import KCenterGreedy
    except ImportError:
        print("anomalib is not installed, so it was not timed")
        return
    theirs, _ = timed(lambda: KCenterGreedy(points, args.ratio).select_coreset_idxs())
    print(f"anomalib {theirs:.2f} s with its projection, ratio {theirs / ours:.1f}")


def near_a_surface(points: int, intrinsic: int) -> Tensor:
    """Points of the projection's dimensions with fewer degrees of freedom, and some noise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(points, intrinsic, generator=generator) @ torch.randn(intrinsic, 64, generator=generator)
    surface = (hidden / intrinsic**0.5).tanh() @ torch.randn(64, PROJECTION, generator=generator)
    return surface + 0.1 * torch.randn(points, PROJECTION, generator=generator)


def plain_greedy(points: Tensor, count: int, start: int) -> Tensor:
    """Farthest point first, every distance updated for every centre."""
    nearest = torch.full((len(points),), torch.inf)
    selected = [start]
    nearest[start] = -1
    while len(selected) < count:
        distances = (points - points[selected[-1]]).square_().sum(dim=1)
        torch.minimum(nearest, distances, out=nearest)
        selected.append(int(nearest.argmax()))
        nearest[selected[-1]] = -1
    return torch.tensor(selected)


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result of one call."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
