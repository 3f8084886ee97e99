"""Train every released weight again from its recorded configuration and start, and say how close the result comes.

    make weights FILES="init/ natural/ visa/ industrial/"
    python -m examples.retrain --files init/ natural/ visa/ industrial/ --out runs/weights

The folders of --files hold the training data, the starts and the evaluated data, under the names in training.json and
results.json. A result with the same bytes is bit-identical. For any other, the largest difference of a tensor and the
differences of the metrics are printed. Run the same command again to resume.
"""

import argparse
import dataclasses
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors.torch import load_file

from eval.detectors.methods import Settings
from eval.results import read_results
from examples.quickstart import fail, run
from spd_weights.catalog import Row, load_catalog
from spd_weights.checks import RESULTS, TRAINING, WEIGHTS, load_export
from spd_weights.errors import SpdError
from spd_weights.files import read_json, sha256
from spd_weights.hub import weights_file
from spd_weights.release.clone import card_folder
from spd_weights.release.export import export_backbone
from train.loop import pretrain
from train.recipes import from_json, to_json
from train.run_folder import flatten


def main(arguments: list[str] | None = None) -> int:
    """Train and compare all released weights, or those of --name; 1 if one of them cannot be trained again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--files", nargs="+", type=Path, required=True, help="folders that hold data and starts by name"
    )
    parser.add_argument("--name", nargs="+", help="weights of the catalog (all released ones)")
    parser.add_argument("--out", type=Path, default=Path("runs/weights"), help="folder for the runs (%(default)s)")
    args = parser.parse_args(arguments)
    failed = False
    for row in released(args.name):
        try:
            print(f"{row.name}: {comparison(row, args.files, args.out)}", flush=True)
        except SpdError as error:
            print(f"{row.name}: {error}", file=sys.stderr)
            failed = True
        except subprocess.CalledProcessError as error:
            return fail(error)
    return int(failed)


def released(names: Sequence[str] | None) -> list[Row]:
    """The catalog's rows that have weights, or those of the given names."""
    rows = [row for row in load_catalog().values() if row.status != "planned"]
    if unknown := sorted(set(names or []) - {row.name for row in rows}):
        raise SpdError(f"no released weights {', '.join(unknown)}; there are: {', '.join(row.name for row in rows)}")
    return [row for row in rows if names is None or row.name in names]


def comparison(row: Row, files: Sequence[Path], out: Path) -> str:
    """Train one weight again and compare it with the released file.

    Raises:
        SpdError: The record is incomplete or of another version, or data or start are missing or different.
    """
    export = trained_again(row, files, out)
    released = weights_file(row)
    _, backbone = load_export(export)
    half = any(tensor.itemsize == 2 for tensor in load_file(released).values())
    again = export_backbone(backbone, out / row.name / "released", read_json(export / TRAINING), half=half)
    if sha256(again / WEIGHTS) == row.sha256:
        return "bit-identical"
    found = f"not bit-identical; {largest_difference(released, again / WEIGHTS)}"
    return "\n  ".join([found, *metric_differences(row, again, files, out / row.name)])


def trained_again(row: Row, files: Sequence[Path], out: Path) -> Path:
    """Run the recorded configuration, or resume it; returns the export."""
    folder = card_folder(row.name)
    record = read_json(folder / TRAINING) if folder else {}
    settings = {**record["config"], "out": str(out / row.name / "run")}
    settings["data"] = {**settings["data"], "train": str(located(settings["data"]["train"], files))}
    if (init := settings["model"]["init"]) != "none":
        start = located(init, files)
        if row.start and row.start.get("sha256") not in (None, sha256(start / WEIGHTS)):
            raise SpdError(f"{start} has another sha256 than the start of this weight, {row.start['sha256']}")
        settings["model"] = {**settings["model"], "init": f"local-dir:{start}"}
    config = from_json(settings)
    if changed := sorted(flatten(to_json(config)).keys() ^ flatten(settings).keys()):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise SpdError(f"its record is of another version, without {options}: train it with the commit that made it")
    return pretrain(config)


def located(name: str, files: Sequence[Path]) -> Path:
    """The folder of this name in one of the folders, or one of them itself."""
    for path in files:
        for candidate in (path / name, path):
            if candidate.name == name and candidate.is_dir():
                return candidate.resolve()
    raise SpdError(f"there is no folder {name} in {', '.join(map(str, files))}: add its parent to --files")


def largest_difference(released: Path, again: Path) -> str:
    """The tensor that differs most, relative to its root mean square."""
    ours, theirs = load_file(again), load_file(released)
    differences = {
        name: float((ours[name].double() - tensor.double()).abs().max() / tensor.double().square().mean().sqrt())
        for name, tensor in theirs.items()
        if tensor.any()
    }
    worst = max(differences, key=lambda name: differences[name])
    return f"largest difference {differences[worst]:.1e} of the tensor's root mean square, in {worst}"


def metric_differences(row: Row, again: Path, files: Sequence[Path], out: Path) -> list[str]:
    """Evaluate as the card's results.json was, with its first seed; one line per method and metric."""
    folder = card_folder(row.name)
    if folder is None or not (folder / RESULTS).is_file():
        return ["the card has no results to compare with"]
    results = read_results(folder)
    before = {
        cell(each): each["value"]
        for each in results["rows"]
        if each["weights_sha256"] == row.sha256 and each["seed"] == 0 and each["value"] is not None
    }
    config = {**dataclasses.asdict(Settings()), **results["config"]}
    for dataset in dict.fromkeys(dataset for dataset, *_ in before):
        categories = dict.fromkeys(name for of, name, *_ in before if of == dataset)
        methods = dict.fromkeys(method for of, _, method, _ in before if of == dataset)
        run("eval", "--weights", f"local-dir:{again}", "--data", str(located(dataset, files)),
            "--category", *categories, "--method", *methods, "--image-size", str(config["image_size"]),
            "--coreset-ratio", str(config["coreset_ratio"]), "--out", str(out / "eval"))  # fmt: skip
    after = {cell(each): each["value"] for each in read_results(out / "eval")["rows"]}
    found: dict[str, list[float]] = defaultdict(list)
    for key, value in before.items():
        found[" ".join(key[2:])].append(100 * (after[key] - value))
    return [
        f"{name}: {fmean(points):+.2f} points on average over {len(points)} categories, "
        f"at most {max(map(abs, points)):.2f} in one"
        for name, points in found.items()
    ]


def cell(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Data set, category, method and metric of a row of results.json."""
    return row["dataset"], row["category"], row["method"], row["metric"]


if __name__ == "__main__":
    sys.exit(main())
