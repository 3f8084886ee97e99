"""The paper's comparison at any scale: each method without and with SPD, on the same images in the same order.

    python -m examples.paired_table --train photos/ --data inspection/ --out runs/table
    python -m examples.paired_table … --method moco supervised --seeds 2        # a second seed for these two
    python -m examples.paired_table … --init mobilenetv2_100.imagenet1k/ --eta 0 0.1 1 --steps 100     # continue

Trains `<method>_eta0_seed<n>`, `<method>_seed<n>` (η = 0.1, the paper's) and so on under --out, and evaluates all runs
found there. Writes the results and their tables to --to. Run the same command again to resume: finished runs and
finished cells are kept. The defaults are the settings of results/scaled_down.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from examples.paired_page import page
from examples.quickstart import fail, run
from examples.results_folder import keep_results, write_page
from spd_weights.errors import SpdError
from spd_weights.files import read_json

FROM_SCRATCH = {
    "simsiam": ["--optim.lr", "0.2"],
    "moco": ["--optim.lr", "0.24", "--moco.queue-size", "1024"],
    "simclr": ["--optim.warmup-epochs", "0.5"],
    "supervised": ["--optim.lr", "0.4"],
}
"""Four to eight times the learning rates of the recipes, because a short run from scratch has far to go."""

CONTINUED = {
    "simsiam": ["--optim.lr", "0.1"],
    "moco": ["--optim.lr", "0.06", "--moco.queue-size", "512"],
    "simclr": ["--optim.lr", "0.15"],
    "supervised": ["--optim.lr", "0.1"],
}
"""Small learning rates: larger ones make the backbone forget ImageNet (results/continued/learning_rates)."""

WARM_UP = ["--optim.warmup-epochs", "0.04"]
"""The heads are new and random: their first gradients say nothing about the images."""


def main(arguments: list[str] | None = None) -> int:
    """Train, evaluate and print; stop at the first command that fails, with its exit code."""
    args = parsed(arguments)
    try:
        for seed in range(args.seeds):
            for method in args.method:
                for eta in args.eta:
                    train(args, method, eta, seed)
        for data in args.data:
            evaluate(args, data)
        keep(args)
        print(f"\n{write_page(args.to, page).read_text(encoding='utf-8')}")
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    except SpdError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", required=True, help="images to pre-train on; labelled for supervised")
    add("--init", type=Path, help="folder of weights to continue, in timm's local-dir format; none: from scratch")
    add("--data", nargs="+", type=Path, required=True, help="data to evaluate on, in VisA's or MVTec AD's layout")
    add("--out", type=Path, required=True, help="folder for all runs and measurements")
    add("--to", type=Path, help="folder for the results and their tables (OUT/tables)")
    add("--method", nargs="+", choices=list(FROM_SCRATCH), default=list(FROM_SCRATCH))
    add("--eta", nargs="+", default=["0", "0.1"], metavar="η", help="SPD weights; 0 is the baseline (0 0.1)")
    add("--seeds", type=int, default=1, metavar="N", help="trainings per method (%(default)s)")
    add("--arch", default="resnet18", help="without --init (%(default)s)")
    add("--image-size", default="64", metavar="PX", help="training image size (%(default)s)")
    add("--batch-size", default="64", metavar="N", help="(%(default)s)")
    add("--epochs", default="4", metavar="N", help="(%(default)s)")
    add("--steps", metavar="N", help="length of each training in steps, instead of --epochs")
    add("--precision", default="bf16", help="of the trainings (%(default)s)")
    add("--protocol", nargs="+", default=["1cls", "2cls_highshot"], help="of the evaluation (%(default)s)")
    add("--group", nargs="+", default=[], metavar="PATTERN", help="categories that count as one, as in eval compare")
    add("--detector-seeds", default="1", metavar="N", help="(%(default)s)")
    add("--evaluate-at", default="128", metavar="PX", help="image size of the 1-class methods (%(default)s)")
    add("--fine-tune-at", default="96", metavar="PX", help="image size of the 2-class methods (%(default)s)")
    args = parser.parse_args(arguments)
    args.to = args.to or args.out / "tables"
    return args


def train(args: argparse.Namespace, method: str, eta: str, seed: int) -> None:
    """Train one run, or resume it."""
    arch, init, options = args.arch, "none", FROM_SCRATCH[method]
    if args.init:
        arch, init = read_json(args.init / "config.json")["architecture"], f"local-dir:{args.init}"
        options = CONTINUED[method] + WARM_UP
    suffix = {"0.1": ""}.get(eta, f"_eta{eta}")
    length = ["--optim.steps", args.steps] if args.steps else ["--optim.epochs", args.epochs]
    run("train", method, "--data.train", args.train, "--model.arch", arch, "--model.init", init,
        "--data.image-size", args.image_size, "--optim.batch-size", args.batch_size, *length,
        "--precision", args.precision, "--seed", str(seed), "--spd.weight", eta, "--log-every", "5",
        "--checkpoint.every", "100", *options,
        "--out", str(args.out / f"{method}{suffix}_seed{seed}"))  # fmt: skip


def evaluate(args: argparse.Namespace, data: Path) -> None:
    """Evaluate the start, if there is one, and all runs in --out."""
    weights = [f"local-dir:{args.init}"] if args.init else []
    weights += sorted(str(export.parent) for export in args.out.glob("*_seed*/export"))
    two_class = ["classifier", "unet"] if any(name != "1cls" for name in args.protocol) else []
    run("eval", "--weights", *weights, "--data", str(data), "--out", str(args.out / "eval"),
        "--method", "padim", "patchcore", *two_class, "--protocol", *args.protocol, "--seeds", args.detector_seeds,
        "--image-size", args.evaluate_at, "--coreset-ratio", "0.02",
        "--classifier-size", args.fine_tune_at, "--unet-size", args.fine_tune_at, "--precision", "bf16",
        "--epochs", "1", "--min-steps", "60")  # fmt: skip


def keep(args: argparse.Namespace) -> None:
    """Copy what the tables are rendered from: results, and each run's record and losses."""
    keep_results(args.out / "eval", args.to, args.group)
    for export in sorted(args.out.glob("*_seed*/export")):
        folder = args.to / export.parent.name
        folder.mkdir(exist_ok=True)
        for path in (export / "training.json", export.parent / "metrics.jsonl"):
            shutil.copy(path, folder)


if __name__ == "__main__":
    sys.exit(main())
