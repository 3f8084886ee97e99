"""The example that compares each method without and with SPD, end to end at its smallest."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_trains_evaluates_and_tabulates_and_does_nothing_twice(tmp_path: Path):
    scenes, parts, out = tmp_path / "scenes", tmp_path / "parts", tmp_path / "table"
    few = ("--train", "8", "--test-normal", "4", "--anomalies", "10", "--size", "64")
    command("synthetic.scenes", "--to", scenes, "--count", "64", "--size", "48")
    command("synthetic.parts", "--to", parts, *few)
    small = [
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
    ]
    compare = ("examples.paired_table", "--train", scenes, "--data", parts, "--out", out, "--method", "simsiam", *small)
    said = table(command(*compare))
    header, _, without, with_spd, difference = said
    assert "PaDiM image AUROC" in header
    assert "U-Net pixel AP" in header
    assert without.startswith("| `simsiam_eta0` |")
    assert with_spd.startswith("| `simsiam` |")
    assert difference.startswith("| `simsiam` − `simsiam_eta0` |")
    exported = {path: path.stat().st_mtime_ns for path in out.glob("*_seed0/export/model.safetensors")}
    assert len(exported) == 2
    assert table(command(*compare)) == said
    assert {path: path.stat().st_mtime_ns for path in exported} == exported


def table(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("|")]


def command(module: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
