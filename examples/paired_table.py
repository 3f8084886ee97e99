"""The paper's comparison at any scale: each method without and with SPD, on the same images in the same order.

    python -m examples.paired_table --train photos/ --data inspection/ --out runs/table
    python -m examples.paired_table … --method moco supervised --seeds 2        # a second seed for these two

Trains `<method>_eta0_seed<n>` and `<method>_seed<n>` under --out, evaluates all runs found there with the 1-class and
2-class protocols, and prints the table of paired differences. Finished steps are not repeated. The defaults are the
settings of results/scaled_down; learning rates are those of the recipes, for a batch of 64 and a short run.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from examples.quickstart import fail, run

METHODS = {
    "simsiam": ["--optim.lr", "0.2"],
    "moco": ["--optim.lr", "0.24", "--moco.queue-size", "1024"],
    "simclr": ["--optim.warmup-epochs", "0.5"],
    "supervised": ["--optim.lr", "0.4"],
}
WEIGHTS = {"_eta0": "0", "": "0.1"}  # suffix of the run's name -> η


def main() -> int:
    """Train, evaluate and print; stop at the first command that fails, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="images to pre-train on; labelled for supervised")
    parser.add_argument("--data", required=True, help="data to evaluate on, in VisA's or MVTec AD's layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs and results")
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings per method (%(default)s)")
    parser.add_argument("--arch", default="resnet18", help="(%(default)s)")
    parser.add_argument("--image-size", default="64", metavar="PX", help="training image size (%(default)s)")
    parser.add_argument("--epochs", default="4", metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--evaluate-at", default="128", metavar="PX", help="image size of the 1-class methods (%(default)s)"
    )
    parser.add_argument(
        "--fine-tune-at", default="96", metavar="PX", help="image size of the 2-class methods (%(default)s)"
    )
    args = parser.parse_args()
    try:
        for seed in range(args.seeds):
            for method in args.method:
                for suffix, eta in WEIGHTS.items():
                    run("train", method, "--data.train", args.train, "--model.arch", args.arch,
                        "--data.image-size", args.image_size, "--optim.batch-size", "64", "--optim.epochs", args.epochs,
                        "--precision", "bf16", "--seed", str(seed), "--spd.weight", eta, "--log-every", "13",
                        *METHODS[method],
                        "--out", str(args.out / f"{method}{suffix}_seed{seed}"))  # fmt: skip
        runs = sorted(str(export.parent) for export in args.out.glob("*_seed*/export"))
        run("eval", "--weights", *runs, "--data", args.data, "--out", str(args.out / "eval"),
            "--method", "padim", "patchcore", "classifier", "unet", "--protocol", "1cls", "2cls_highshot",
            "--image-size", args.evaluate_at, "--coreset-ratio", "0.02",
            "--classifier-size", args.fine_tune_at, "--unet-size", args.fine_tune_at, "--precision", "bf16",
            "--epochs", "1", "--min-steps", "60")  # fmt: skip
        pairs = [word for method in args.method for word in ("--weights", f"{method}_eta0", method)]
        run("eval", "summary", str(args.out / "eval"), *pairs)
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
