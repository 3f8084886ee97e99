"""The main job, end to end, as commands that you could type yourself.

    make quickstart
    make quickstart PRETRAIN=photos/ VISA=VisA/

Takes the backbone that comes with the package and measures how well it finds defects. Adapts it to your images with
SPot-the-Difference (SPD), measures again, and compares. Puts the results on a card, publishes the weights through the
real Hub client to a server on this machine, pulls them back and verifies them. Last come a few steps of SimSiam with
SPD from scratch, the paper's method. Steps that are already done are skipped.
`make rehearsal` runs the same chain at its smallest.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START = "mobilenetv2_100_spd"
"""The bundled weight: trained on ImageNet, then adapted with SPD on the photographs of Caltech-101."""

REPOSITORY = "quickstart/mobilenetv2-spd"


def main() -> int:
    """Run all steps. The first one that fails ends the run with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="where everything goes")
    parser.add_argument("--pretrain", help="images to adapt to: a folder, or hf:owner/dataset (default: rendered)")
    parser.add_argument("--visa", help="data to evaluate on, in the layout of VisA or MVTec AD (default: rendered)")
    parser.add_argument("--steps", type=int, help="training steps of 24 images for the adaptation (20)")
    parser.add_argument("--smallest", action="store_true", help="a few images and steps: only to see that it works")
    args = parser.parse_args()
    steps = args.steps or (2 if args.smallest else 20)
    try:
        scenes, parts = pictures(args)
        evaluation = args.out / "eval"
        evaluate = ["--data", parts, "--image-size", "64" if args.smallest else "160", "--out", str(evaluation)]
        run("eval", "--weights", START, *evaluate)

        adapted = args.out / "adapted"
        run("train", "adapt", "--data.train", scenes, "--model.arch", "mobilenetv2_100", "--model.init", START,
            "--data.image-size", "64" if args.smallest else "128", "--optim.steps", str(steps),
            "--out", str(adapted))  # fmt: skip
        run("eval", "--weights", str(adapted), *evaluate)
        run("eval", "compare", str(evaluation), "--baseline", START)

        publish(adapted / "export", evaluation, args.out)

        # The paper's own way, from random weights: far too short to learn anything, but every part of it runs.
        run("train", "simsiam", "--data.train", scenes, "--model.arch", "resnet18", "--data.image-size", "64",
            "--optim.batch-size", "16", "--optim.max-steps", "2" if args.smallest else "8", "--log-every", "2",
            "--out", str(args.out / "simsiam_spd"))  # fmt: skip
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    print(f"\nresults {evaluation / 'results.json'}\nreport  {evaluation / 'report.html'}  (open it in a browser)")
    return 0


def pictures(args: argparse.Namespace) -> tuple[str, str]:
    """Render what the user does not bring; returns the images to adapt to and the data to evaluate on."""
    scenes, parts = args.pretrain or str(args.out / "scenes"), args.visa or str(args.out / "drawn_parts")
    if not args.pretrain:
        run("synthetic.scenes", "--to", scenes, "--count", "48" if args.smallest else "128")
    if not args.visa:
        count = ["--train", "40", "--test-normal", "20", "--anomalies", "20"]
        fewest = ["--train", "6", "--test-normal", "4", "--anomalies", "4", "--size", "64"]
        run("synthetic.parts", "--to", parts, *(fewest if args.smallest else count))
    return scenes, parts


def publish(export: Path, evaluation: Path, out: Path) -> None:
    """Put the measured results on the export's card, publish it, pull it back and verify it."""
    shutil.copy(evaluation / "results.json", export)
    run("spd_weights", "card", str(export))
    with hub(out / "hub") as environment:
        environment["HF_HOME"] = str((out / "hub_cache").resolve())
        run("spd_weights", "publish", str(export), "--repo", REPOSITORY, environment=environment)
        run("spd_weights", "pull", REPOSITORY, "--to", str(out / "pulled"), environment=environment)
        run("spd_weights", "verify", str(out / "pulled"), environment=environment)


def run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Show a command and run it."""
    command = [sys.executable, "-m", module, *arguments]
    print(f"\n$ python {shlex.join(command[1:])}", flush=True)
    start = time.monotonic()
    # OpenMP threads that wait by spinning make a step many times slower once other processes use the cores, too.
    subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | (environment or {}), check=True)
    print(f"  {time.monotonic() - start:.0f} s", flush=True)


def fail(failed: subprocess.CalledProcessError) -> int:
    """Name the command that failed; returns its exit code."""
    print(f"this step failed: python {shlex.join(failed.cmd[1:])}", file=sys.stderr)
    return failed.returncode


@contextmanager
def hub(root: Path) -> Iterator[dict[str, str]]:
    """Start a server that speaks the Hub's protocol on this machine; yields the environment that selects it."""
    from tests.hub.server import HubServer

    root.mkdir(parents=True, exist_ok=True)
    with HubServer(root, 0) as server:
        yield dict(server.environment())


if __name__ == "__main__":
    sys.exit(main())
