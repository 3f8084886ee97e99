import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from spd_weights.release.bundle import bundle
from spd_weights.release.export import export_backbone
from tests.conftest import RunPython
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone, serve

ROOT = Path(__file__).parents[2]


def test_import_is_light_and_silent(run_python: RunPython) -> None:
    code = """
import socket, sys, time
def refuse(*_, **__): raise AssertionError("network at import")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
start = time.process_time()
import timm
before, between = set(sys.modules), time.process_time()
import spd_weights
ratio = (time.process_time() - start) / (between - start)
assert ratio <= 1.03, ratio  # tests/bench/import_time.py measures it
assert not [name for name in sys.modules if name.startswith("spd_weights.release")]
heavy = {"accelerate", "datasets", "pandas", "rich", "sklearn", "scipy", "train", "eval", "tyro", "matplotlib"}
assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {f"{node.module}.{alias.name}" for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
    return names


def test_package_depends_on_nothing_above_it() -> None:
    allowed = {"timm", "torch", "huggingface_hub", "safetensors", "numpy", "packaging", "spd_weights"}
    allowed |= sys.stdlib_module_names
    for path in (ROOT / "spd_weights").rglob("*.py"):
        assert {name.partition(".")[0] for name in _imports(path)} <= allowed, path


def test_only_the_command_line_reaches_for_the_release_part() -> None:
    users = {
        path.name
        for path in (ROOT / "spd_weights").glob("*.py")
        if any(name.startswith("spd_weights.release") for name in _imports(path))
    }
    assert users == {"cli.py"}  # and there inside a function: test_import_is_light_and_silent


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built without network, by an installed hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"spd_weights"}
    for name in ("catalog.json", "release/card_template.md", "py.typed", "cli.py"):
        assert f"spd_weights/{name}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.slow
def test_a_fresh_environment_with_the_wheel_alone_loads_bundled_and_published_weights(
    hub: HubServer, training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built without network, by an installed hatchling")
    clone, facts = tmp_path / "clone", {**training, "architecture": "mobilenetv2_100"}
    shutil.copytree(
        ROOT / "spd_weights", clone / "spd_weights", ignore=shutil.ignore_patterns("__pycache__", "bundled")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    (clone / "model_cards").mkdir()
    export = export_backbone(random_backbone("mobilenetv2_100"), tmp_path / "export", facts)
    released = asdict(serve(hub, export, "acme/weights")) | {"name": "mobilenetv2_100_spd.simsiam_hub"}
    (clone / "spd_weights" / "catalog.json").write_text(json.dumps({"schema": 1, "rows": [released]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(clone / "spd_weights" / "catalog.json"))
    bundle(export, "mobilenetv2_100_spd.adapt_wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=clone, check=True, capture_output=True
    )
    (wheel,) = (clone / "dist").glob("*.whl")

    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Dependencies from here, but nothing installed in editable mode: a .pth file does not read another.
    site = tmp_path / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    code = """
import socket, spd_weights, timm
connect = socket.socket.connect
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = refuse
assert "venv" in spd_weights.__file__
for module in ("train", "eval", "tests"):
    try:
        __import__(module)
    except ModuleNotFoundError:
        continue
    raise AssertionError(module)
assert timm.list_pretrained("*_spd*") == ["mobilenetv2_100_spd.adapt_wheel", "mobilenetv2_100_spd.simsiam_hub"]
timm.create_model("mobilenetv2_100_spd.adapt_wheel", pretrained=True)
socket.socket.connect = connect
timm.create_model("mobilenetv2_100_spd.simsiam_hub", pretrained=True)
"""
    hidden = ("PYTHONPATH", "SPD_WEIGHTS_CATALOG")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables["HF_HOME"] = str(tmp_path / "hf")
    commands = [[python, "-W", "ignore", "-c", code]]
    commands += [[python.with_name("spd-weights"), "verify", name] for name in ("mobilenetv2_100_spd", "acme/weights")]
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
