"""The wheel in a fresh environment, outside the clone: everything that a user with pip alone does."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spd_weights.catalog import load_catalog
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

ROOT = Path(__file__).parents[2]
_BUNDLED = [row.name for row in load_catalog().values() if row.status == "bundled"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the wheel is built without network, by an installed hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def run(wheel: Path, tmp_path: Path) -> Run:
    """Run a program of a fresh environment that has the wheel and this environment's dependencies."""
    venv.create(tmp_path / "venv", symlinks=True)
    programs = tmp_path / "venv" / "bin"
    # Nothing that is installed here in editable mode is visible there: a .pth file does not read another.
    site = tmp_path / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = ["-m", "pip", "--python", str(programs / "python"), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPD_WEIGHTS_CATALOG")}
    variables |= {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def call(program: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done

    return call


def _photographs(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(draw.integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def test_wheel_holds_three_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"spd_weights", "spd_train", "spd_eval"}
    for name in ("spd_weights/catalog.json", "spd_weights/catalog_results.json", "spd_weights/py.typed",
                 "spd_weights/release/card_template.md", "spd_train/__main__.py", "spd_eval/__main__.py",
                 "spd_eval/report/templates/page.html", "spd_eval/inspection/templates/gallery.html",
                 "spd_eval/report/reference/visa.json"):  # fmt: skip
        assert name in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc") or "_eta0" in name]


@pytest.mark.slow
def test_loading_needs_no_clone(hub: HubServer, export: Path, run: Run) -> None:
    code = f"""
import socket, spd_weights, timm
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = refuse
assert "venv" in spd_weights.__file__
for module in ("train", "eval", "tests"):
    try:
        __import__(module)
    except ModuleNotFoundError:
        continue
    raise AssertionError(module)
assert set(timm.list_pretrained("*_spd*")) == set({_BUNDLED!r})
for name in {_BUNDLED!r}:
    timm.create_model(name.split(".")[0], pretrained=True)
    assert "features as exported" in spd_weights.verify(name)
"""
    run("python", "-c", code)
    serve(hub, export, "acme/weights")
    run("spd-weights", "verify", "acme/weights")


@pytest.mark.slow
def test_pre_train_adapt_evaluate_fit_and_predict(run: Run, tmp_path: Path) -> None:
    _photographs(tmp_path / "photos", 16)
    steps = ["--data.train", "photos", "--data.image-size", "64", "--optim.batch-size", "8", "--optim.max-steps", "2"]
    steps += ["--data.workers", "0"]
    adapt = ["adapt", *steps, "--model.arch", "mobilenetv2_100", "--model.init", "mobilenetv2_100_spd"]
    run("spd-weights", "train", *adapt, "--out", "adapted")
    assert '"command": "spd-weights train adapt ' in (tmp_path / "adapted" / "export" / "training.json").read_text()
    simsiam = ["simsiam", *steps, "--model.arch", "resnet18", "--out", "trained"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]  # what accelerate launch runs
    run("python", *launch, "-m", "spd_train", *simsiam)
    run("spd-weights", "verify", "trained/export")

    for kind in ("train/good", "test/good", "test/scratch"):
        _photographs(tmp_path / "parts" / "screw" / kind, 4)
    common = ["--data", "parts", "--image-size", "64", "--workers", "0"]
    run("spd-weights", "eval", "--weights", "adapted", "trained", *common, "--out", "evaluated")
    assert (tmp_path / "evaluated" / "report.html").is_file()
    fit = ["--normal", "photos", "--weights", "adapted", "--image-size", "64", "--save", "part.safetensors"]
    run("spd-weights", "eval", "fit", *fit)
    run("spd-weights", "eval", "predict", "part.safetensors", "photos", "--out", "predicted")
    assert "data:image/jpeg" in (tmp_path / "predicted" / "gallery.html").read_text()


@pytest.mark.slow
def test_messages_name_the_command_that_a_wheel_has(run: Run, tmp_path: Path) -> None:
    _photographs(tmp_path / "photos", 1)
    for part in ("train", "eval"):
        text = run("spd-weights", part, "--help").stdout
        assert f"spd-weights {part}" in text
        assert f"-m {part} " not in text
    assert (
        "spd-weights eval fit writes detectors"
        in run("spd-weights", "eval", "predict", "none", "photos", "--out", "z", code=2).stderr
    )
    assert "spd-weights train simsiam" in run("spd-weights", "info", "resnet50_spd").stdout
    code = """
import sys
sys.modules["tyro"] = None
from spd_weights.cli import main
raise SystemExit(main(["train", "--help"]))
"""
    assert "pip install 'spd-weights[train]'" in run("python", "-c", code, code=2).stderr
