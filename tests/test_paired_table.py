"""The example that compares each method without and with SPD, end to end at its smallest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from spd_weights.release.export import export_backbone

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_trains_evaluates_and_tabulates_and_does_nothing_twice(tmp_path: Path):
    scenes, parts, out = tmp_path / "scenes", tmp_path / "parts", tmp_path / "table"
    few = ("--train", "8", "--test-normal", "4", "--anomalies", "10", "--size", "64")
    command("synthetic.scenes", "--to", scenes, "--count", "64", "--size", "48")
    command("synthetic.parts", "--to", parts, *few)
    small = (
        "--arch",
        "resnet10t",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--evaluate-at",
        "64",
        "--fine-tune-at",
        "64",
    )
    compare = ("examples.paired_table", "--train", scenes, "--data", parts, "--out", out, "--method", "simsiam", *small)
    said = table(command(*compare))
    header, _, without, with_spd, difference, *learned = said
    assert "PaDiM image AUROC" in header
    assert "U-Net pixel AP" in header
    assert without.startswith("| `simsiam_eta0` |")
    assert with_spd.startswith("| `simsiam` |")
    assert difference.startswith("| `simsiam` − `simsiam_eta0` |")
    assert [line.split(" | ")[:2] for line in learned[2:]] == [
        ["| `simsiam_eta0_seed0`", "0"],
        ["| `simsiam_seed0`", "0.1"],
    ]
    exported = {path: path.stat().st_mtime_ns for path in out.glob("*_seed0/export/model.safetensors")}
    assert len(exported) == 2
    assert table(command(*compare)) == said
    assert {path: path.stat().st_mtime_ns for path in exported} == exported


@pytest.mark.slow
def test_continues_weights_beside_their_start(tmp_path: Path):
    scenes, parts, start, out = (tmp_path / name for name in ("scenes", "parts", "small.start", "table"))
    command("synthetic.scenes", "--to", scenes, "--count", "16", "--size", "48")
    command("synthetic.parts", "--to", parts, "--train", "4", "--test-normal", "2", "--anomalies", "4", "--size", "64")
    record = {"architecture": "test_efficientnet", "image_size": 64, "in_chans": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    export_backbone(timm.create_model("test_efficientnet", num_classes=0), start, record)
    given = [
        "--init",
        start,
        "--eta",
        "0",
        "1",
        "--steps",
        "2",
        "--method",
        "moco",
        "--batch-size",
        "8",
        "--protocol",
        "1cls",
    ]
    size = ["--image-size", "64", "--evaluate-at", "64", "--precision", "no"]
    said = command("examples.paired_table", "--train", scenes, "--data", parts, "--out", out, *given, *size)
    assert "| `moco_eta1` − `moco_eta0` |" in said
    assert "| `moco_eta1` − `small.start` |" in said
    assert (out / "tables" / "tables.md").read_text(encoding="utf-8") in said
    trained = json.loads((out / "tables" / "moco_eta1_seed0" / "training.json").read_text())
    assert (trained["architecture"], trained["init"], trained["spd_weight"], trained["steps"]) == (
        "test_efficientnet", "small.start", 1.0, 2,
    )  # fmt: skip


def table(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("|")]


def command(module: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
