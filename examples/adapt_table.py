"""What `adapt` adds to a backbone, on data that nothing was chosen on: the start, its maps rescaled, and the recipe.

    python -m examples.adapt_table --train caltech101/ --init mobilenetv2_100.imagenet1k/ --data visa/ industrial/ \\
        --category capsules fryum cookie pcb_00041 pcb_20085 --out runs/adapt --to results/adapt_confirm \\
        --options --adapt.scales 0.25 0.25 0.125

For each start, trains `<architecture>_rescaled`, which is the recipe with η = 0, and `<architecture>_adapt_seed0`,
`_seed1` and so on. Checks that `_rescaled` computes exactly what the start computes, except for the scale of its maps;
so it is both controls. Evaluates all of them. Writes results.json, features.json and, with --labelled, probe.json to
--to, and renders tables.md from them (examples/adapt_page.py). Run the same command again to resume: finished runs and
finished cells are kept. More starts, categories or seeds add to the same folder.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch

from examples.adapt_page import FEATURES, PROBE, all_differences, page
from examples.quickstart import fail, run
from examples.results_folder import keep_results, keep_rows, write_page
from spd_weights import golden
from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json
from spd_weights.release.results import public_name
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices


def main(arguments: list[str] | None = None) -> int:
    """Train, check, evaluate and render; stop at the first command that fails, with its exit code."""
    args = parsed(arguments)
    try:
        weights: list[str] = []
        for init in args.init:
            weights += [f"local-dir:{init}", *(str(folder) for folder in trained(args, init))]
        weights += args.also
        for data in args.data:
            evaluate(args, weights, data)
        measure_features(args.out / FEATURES, weights)
        if args.labelled:
            probe(args, weights)
        keep(args)
        print(f"\n{write_page(args.to, page)}")
    except subprocess.CalledProcessError as failed:
        return fail(failed)
    except SpdError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="images to adapt to")
    parser.add_argument(
        "--init", nargs="+", type=Path, required=True, help="folders of starting weights, in timm's local-dir format"
    )
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="W", help="other weights to evaluate, such as a bundled one"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="data to evaluate on, in VisA's or MVTec AD's layout"
    )
    parser.add_argument("--category", nargs="+", required=True, help="categories in these folders")
    parser.add_argument("--labelled", help="labelled photographs for the linear probe; none by default")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs and measurements")
    parser.add_argument("--to", type=Path, required=True, help="folder for the results and their tables")
    parser.add_argument("--training-seeds", type=int, default=3, metavar="N", help="trainings per start (%(default)s)")
    parser.add_argument("--training-size", default="128", metavar="PX", help="image size of training (%(default)s)")
    parser.add_argument(
        "--detector-seeds", type=int, default=8, metavar="N", help="coresets and channel draws (%(default)s)"
    )
    parser.add_argument("--image-size", default="224", metavar="PX", help="of the evaluation (%(default)s)")
    parser.add_argument("--coreset-ratio", default="0.01", metavar="R", help="(%(default)s)")
    parser.add_argument(
        "--group", nargs="+", default=[], metavar="PATTERN", help="categories that count as one, as in eval compare"
    )
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of train, at the end")
    return parser.parse_args(arguments)


def trained(args: argparse.Namespace, init: Path) -> list[Path]:
    """Train all runs of one start, and check the control; returns the runs' folders."""
    architecture = read_json(init / "config.json")["architecture"]
    # With η = 0 the loss is 0 and its gradient is 0 in the first step, and so in every other one.
    runs = {"rescaled": ["--spd.weight", "0", "--optim.steps", "1"]}
    runs |= {f"adapt_seed{seed}": ["--seed", str(seed)] for seed in range(args.training_seeds)}
    folders = {name: args.out / f"{architecture}_{name}" for name in runs}
    for name, options in runs.items():
        run("train", "adapt", "--data.train", args.train, "--model.arch", architecture,
            "--model.init", f"local-dir:{init}", "--data.image-size", args.training_size, *args.options, *options,
            "--out", str(folders[name]))  # fmt: skip
    check_control(f"local-dir:{init}", folders["rescaled"])
    return list(folders.values())


@torch.inference_mode()
def check_control(start: str, control: Path) -> None:
    """Check that the run with η = 0 computes what its start computes, with the maps multiplied by --adapt.scales.

    Raises:
        SpdError: It computes something else.
    """
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    models = [load(name) for name in (start, str(control))]
    indices = stage_indices(models[0])
    stages = sorted({indices[reduction] for reduction in DETECTOR_REDUCTIONS})
    factors = read_json(control / "config.json")["adapt"]["scales"] or [1.0] * len(stages)
    maps = [model.forward_intermediates(images, indices=stages, intermediates_only=True) for model in models]
    same = all(torch.equal(b, a * factor) for a, b, factor in zip(*maps, factors, strict=True))
    if not same or not torch.equal(*(model(images) for model in models)):
        raise SpdError(f"{control} computes something else than {start} with its maps multiplied by {factors}")


def timm_name(weights: str) -> str:
    """What timm calls weights that are named by a run's folder or by timm's own name."""
    export = Path(weights, "export")
    return f"local-dir:{export}" if export.is_dir() else weights


def load(weights: str) -> Any:
    """The model of these weights."""
    return timm.create_model(timm_name(weights), pretrained=True, num_classes=0).eval()


def evaluate(args: argparse.Namespace, weights: list[str], data: Path) -> None:
    """Evaluate the weights on the categories that lie in this folder."""
    here = [name for name in args.category if any(path.is_dir() for path in data.rglob(name))]
    if here:
        run("eval", "--weights", *weights, "--data", str(data), "--category", *here, "--method", "padim", "patchcore",
            "--image-size", args.image_size, "--coreset-ratio", args.coreset_ratio, "--seeds", str(args.detector_seeds),
            "--out", str(args.out / "eval"))  # fmt: skip


def measure_features(path: Path, weights: list[str]) -> None:
    """Write every weight's feature health: norm per stage, and the cosine of near-identical images."""
    rows = []
    for name in weights:
        model = load(name)
        rows.append({"weights": name, "stages": golden.health(model, {"pretrained_cfg": model.pretrained_cfg})})
    write_json(path, {"schema": 1, "rows": rows})


def probe(args: argparse.Namespace, weights: list[str]) -> None:
    """Measure the linear probe, one file per weight, and collect the files."""
    collected: dict[str, Any] = {}
    for name in weights:
        path = args.out / "probe" / f"{public_name(name)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            run("train.monitor.probe", "--weights", timm_name(name), "--train", args.labelled, "--val", args.labelled,
                "--image-size", args.training_size, "--workers", "0", "--out", str(path))  # fmt: skip
        found = read_json(path)
        collected = {**found, "rows": [*collected.get("rows", []), *found["rows"]]}
    write_json(args.out / PROBE, collected)


def keep(args: argparse.Namespace) -> None:
    """Copy the measurements that the tables are rendered from."""
    keep_results(args.out / "eval", args.to, args.group)
    results = read_json(args.to / "results.json")
    write_json(args.to / "results.json", {**results, "differences": all_differences(results)})
    for name in (FEATURES, PROBE):
        if (args.out / name).is_file():
            keep_rows(read_json(args.out / name), args.to / name)


if __name__ == "__main__":
    sys.exit(main())
