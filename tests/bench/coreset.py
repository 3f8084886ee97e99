"""PatchCore's greedy coreset against anomalib's, in one run, for the same selection.

    pip install "anomalib==2.*"
    python -m tests.bench.coreset

anomalib updates the distance of every point for every centre. Points have 128 dimensions, as after PatchCore's
projection, and lie near a curved surface of `--intrinsic` dimensions, as features do. Their default number is that of
200 images of 224 px. Both start from the same point, without a projection. Prints seconds and their ratio; fails if the
selections differ or below a ratio of ten. anomalib is optional; without it, the plain algorithm is measured instead.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from eval.detectors.bank.coreset import greedy_coreset
from eval.detectors.patchcore import PROJECTION


def main() -> int:
    """Measure and print; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=156_800)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--intrinsic", type=int, default=16)
    args = parser.parse_args()
    points, count = near_a_surface(args.points, args.intrinsic), round(args.points * args.ratio)
    torch.manual_seed(0)
    start = int(torch.randint(high=len(points), size=(1,)))  # as anomalib draws it
    print(f"{count} of {args.points} points, {torch.get_num_threads()} threads")
    ours, selected = timed(lambda: greedy_coreset(points, count, start))
    try:
        from anomalib.models.components.sampling import KCenterGreedy
    except ImportError:
        name, (theirs, expected) = "plain", timed(lambda: plain_greedy(points, count, start))
    else:
        sampler = KCenterGreedy(points, args.ratio)
        sampler.model = _Unprojected()
        torch.manual_seed(0)
        name, (theirs, expected) = "anomalib", timed(lambda: torch.tensor(sampler.select_coreset_idxs()))
    same = float((expected == selected[: len(expected)]).float().mean())
    print(f"ours {ours:.2f} s, {name} {theirs:.2f} s, ratio {theirs / ours:.1f}, {100 * same:.1f} % selected alike")
    return 0 if theirs >= 10 * ours and same == 1 else 1


class _Unprojected:
    """Replaces anomalib's random projection: the points are already projected."""

    def fit(self, points: Tensor) -> None:
        """Nothing to fit."""

    def transform(self, points: Tensor) -> Tensor:
        """The points."""
        return points


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
    sys.exit(main())
