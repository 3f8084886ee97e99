"""What `adapt` adds to a backbone, on data that nothing was chosen on: the start, its maps rescaled, and the recipe.

    python -m examples.adapt_table --train caltech101/ --init mobilenetv2_100.imagenet1k/ --arch mobilenetv2_100 \\
        --data visa/ industrial/ --category capsules fryum cookie pcb_00041 pcb_20085 --out runs/adapt_table

Trains `rescaled`, which is the recipe with η = 0, and `adapt_seed0`, `adapt_seed1`, … Checks that `rescaled` computes
exactly what the start computes, except for the scale of its maps. Evaluates all of them, and prints two tables of
paired differences. Run the same command again to resume: finished runs and finished cells are kept.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import timm
import torch

from examples.quickstart import fail, run
from spd_weights.errors import SpdError
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices


def main() -> int:
    """Train, check, evaluate and print; stop at the first command that fails, with its exit code."""
    args = parsed()
    start = f"local-dir:{args.init}"
    runs = {"rescaled": ["--spd.weight", "0", "--optim.steps", "1"]}
    runs |= {f"adapt_seed{seed}": ["--seed", str(seed)] for seed in range(args.training_seeds)}
    try:
        for name, options in runs.items():
            run("train", "adapt", "--data.train", args.train, "--model.arch", args.arch, "--model.init", start,
                "--data.image-size", "128", "--adapt.scales", *args.scales, *args.options, *options,
                "--out", str(args.out / name))  # fmt: skip
        check_control(start, f"local-dir:{args.out / 'rescaled' / 'export'}", tuple(map(float, args.scales)))
        for data in args.data:
            here = [name for name in args.category if any(path.is_dir() for path in Path(data).rglob(name))]
            run("eval", "--weights", start, *(str(args.out / name) for name in runs), "--data", data,
                "--category", *here, "--method", "padim", "patchcore", "--image-size", args.image_size,
                "--coreset-ratio", args.coreset_ratio, "--seeds", str(args.detector_seeds),
                "--out", str(args.out / "eval"))  # fmt: skip
        for baseline in (Path(args.init).name, "rescaled"):
            run("eval", "summary", str(args.out / "eval"), "--weights", baseline, "adapt")
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    except SpdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="images to adapt to")
    parser.add_argument("--init", required=True, help="folder of the starting weights, in timm's local-dir format")
    parser.add_argument("--arch", required=True, help="their architecture")
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders to evaluate on, in VisA's or MVTec AD's layout"
    )
    parser.add_argument("--category", nargs="+", required=True, help="categories in these folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs and results")
    parser.add_argument("--scales", nargs=3, default=["0.125", "0.125", "0.0625"], metavar="F", help="--adapt.scales")
    parser.add_argument("--training-seeds", type=int, default=3, metavar="N", help="(%(default)s)")
    parser.add_argument("--detector-seeds", type=int, default=8, metavar="N", help="(%(default)s)")
    parser.add_argument("--image-size", default="224", metavar="PX", help="of the evaluation (%(default)s)")
    parser.add_argument("--coreset-ratio", default="0.01", metavar="R", help="(%(default)s)")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of train, at the end")
    return parser.parse_args()


@torch.inference_mode()
def check_control(start: str, control: str, factors: tuple[float, ...]) -> None:
    """Check that two weights differ by the scale of their maps alone.

    Raises:
        SpdError: they differ by more.
    """
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    models = [timm.create_model(name, pretrained=True, num_classes=0).eval() for name in (start, control)]
    indices = stage_indices(models[0])
    stages = sorted({indices[reduction] for reduction in DETECTOR_REDUCTIONS})
    maps = [model.forward_intermediates(images, indices=stages, intermediates_only=True) for model in models]
    same = all(torch.equal(b, a * factor) for a, b, factor in zip(*maps, factors, strict=True))
    if not same or not torch.equal(*(model(images) for model in models)):
        raise SpdError(
            f"{control} should be {start} with its maps multiplied by {factors}, but computes something else"
        )


if __name__ == "__main__":
    sys.exit(main())
