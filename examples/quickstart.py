"""The main job, end to end, as commands that you could type yourself.

    make quickstart
    make quickstart PRETRAIN=photos/ VISA=VisA/

Pre-trains the same small backbone without and with SPot-the-Difference, evaluates both, puts the results on
the second one's card, publishes it through the real Hub client (to a server on this machine), pulls it back
and verifies it. What is done already is not done again. `make rehearsal` is the same at its smallest.
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

REPOSITORY = "quickstart/resnet18-simsiam-spd"


def main() -> int:
    """Run all steps; the first that fails ends it with that step's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="where everything goes")
    parser.add_argument("--pretrain", help="images to pre-train on: a folder, or hf:owner/dataset; default: rendered")
    parser.add_argument("--visa", help="a folder in VisA's or MVTec AD's layout to evaluate on; default: rendered")
    parser.add_argument("--steps", type=int, default=75, help="most training steps, of 32 images each")
    parser.add_argument("--smallest", action="store_true", help="a few images and steps: only that it works")
    args = parser.parse_args()
    out = args.out
    try:
        images, parts = args.pretrain or str(out / "scenes"), args.visa or str(out / "parts")
        if not args.pretrain:
            run("synthetic.scenes", "--to", images, "--count", "64" if args.smallest else "400")
        if not args.visa:
            few = ["--train", "8", "--test-normal", "4", "--anomalies", "4", "--size", "128"]
            run("synthetic.parts", "--to", parts, *(few if args.smallest else []))

        # Both runs see the same images in the same order and start from the same weights.
        settings = [
            "--data.train", images, "--model.arch", "resnet18", "--data.image-size", "64",
            "--optim.batch-size", "32", "--optim.epochs", "2", "--optim.max-steps", str(args.steps),
        ]  # fmt: skip
        run("train", "simsiam", *settings, "--spd.weight", "0", "--out", str(out / "without_spd"))
        run("train", "simsiam", *settings, "--spd.weight", "0.1", "--out", str(out / "with_spd"))

        exports = [out / name / "export" for name in ("without_spd", "with_spd")]
        weights = [f"local-dir:{export}" for export in exports]
        run("eval", "--weights", *weights, "--data", parts, "--image-size", "128", "--out", str(out / "eval"))

        # The card says what was measured, so the results go along.
        shutil.copy(out / "eval" / "results.json", exports[1])
        run("spd_weights", "card", str(exports[1]))
        with hub(out / "hub") as environment:
            environment["HF_HOME"] = str((out / "hub_cache").resolve())
            run("spd_weights", "publish", str(exports[1]), "--repo", REPOSITORY, environment=environment)
            run("spd_weights", "pull", REPOSITORY, "--to", str(out / "pulled"), environment=environment)
            run("spd_weights", "verify", str(out / "pulled"), environment=environment)
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    print(f"results {out / 'eval' / 'results.json'}\nreport  {out / 'eval' / 'report.html'}  (open it in a browser)")
    return 0


def run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Show a command and run it."""
    command = [sys.executable, "-m", module, *arguments]
    print(f"\n$ python {shlex.join(command[1:])}", flush=True)
    start = time.monotonic()
    subprocess.run(command, env=os.environ | (environment or {}), check=True)
    print(f"  {time.monotonic() - start:.0f} s", flush=True)


def fail(failed: subprocess.CalledProcessError) -> int:
    """Name the command that failed; returns its exit code."""
    print(f"this step failed: python {shlex.join(failed.cmd[1:])}", file=sys.stderr)
    return failed.returncode


@contextmanager
def hub(root: Path) -> Iterator[dict[str, str]]:
    """A server that speaks the Hub's protocol on this machine; gives the environment that points clients to it."""
    from tests.hub.server import HubServer

    root.mkdir(parents=True, exist_ok=True)
    with HubServer(root, 0) as server:
        yield dict(server.environment())


if __name__ == "__main__":
    sys.exit(main())
