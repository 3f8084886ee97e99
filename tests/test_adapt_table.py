"""The example that measures what `adapt` adds, end to end at its smallest: it resumes, and checks its control."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from examples import adapt_page
from examples.adapt_table import check_control
from spd_weights.errors import SpdError
from spd_weights.release.export import export_backbone

ROOT = Path(__file__).parents[1]
RECORD = {"image_size": 64, "in_chans": 3, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.slow
def test_trains_evaluates_renders_and_does_nothing_twice(tmp_path: Path) -> None:
    scenes, parts, out, to = (tmp_path / name for name in ("scenes", "parts", "out", "to"))
    start = export(tmp_path / "mobilenetv2_100.random", "mobilenetv2_100")
    command("synthetic.scenes", "--to", scenes, "--count", "8", "--size", "48")
    command("synthetic.parts", "--to", parts, "--train", "4", "--test-normal", "2", "--anomalies", "4", "--size", "64")
    given = [
        "examples.adapt_table", "--train", scenes, "--init", start, "--data", parts, "--category", "biscuit", "board",
        "--out", out, "--to", to, "--training-seeds", "2", "--training-size", "64", "--detector-seeds", "2",
        "--image-size", "64", "--coreset-ratio", "0.1", "--options", "--optim.steps", "2", "--optim.batch-size", "2",
        "--adapt.scales", "0.5", "0.25", "0.25",
    ]  # fmt: skip
    command(*given)
    page = (to / "tables.md").read_text(encoding="utf-8")
    assert "| `mobilenetv2_100_adapt` − `mobilenetv2_100_rescaled` |" in page
    assert page == adapt_page.page(to)
    assert str(tmp_path) not in (to / "results.json").read_text(encoding="utf-8")
    made = {path: path.stat().st_mtime_ns for path in [*out.glob("*/export/*"), *out.glob("eval/cells/**/cell.json")]}
    assert (
        len([path for path in made if path.name == "cell.json"]) == 2 * 2 * 2 * 4
    )  # categories, methods, seeds, weights
    command(*given)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert (to / "tables.md").read_text(encoding="utf-8") == page


def test_control_that_learned_something_is_refused(tmp_path: Path) -> None:
    start = export(tmp_path / "start", "test_efficientnet")
    control = tmp_path / "control"
    shutil.copytree(start, control / "export")
    (control / "config.json").write_text('{"adapt": {"scales": []}}')
    check_control(f"local-dir:{start}", control)
    (control / "config.json").write_text(
        '{"adapt": {"scales": [1.0, 1.0, 0.5]}}'
    )  # claims factors that it does not have
    with pytest.raises(SpdError, match="computes something else"):
        check_control(f"local-dir:{start}", control)
    (control / "config.json").write_text('{"adapt": {"scales": []}}')
    weights = control / "export" / "model.safetensors"
    tensors = load_file(weights)
    tensors["conv_stem.weight"] *= 1.001
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(SpdError, match="computes something else"):
        check_control(f"local-dir:{start}", control)


def export(folder: Path, architecture: str) -> Path:
    torch.manual_seed(0)
    backbone = timm.create_model(architecture, num_classes=0)
    return export_backbone(backbone, folder, {"architecture": architecture, **RECORD})


def command(module: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
