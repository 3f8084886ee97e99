import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import RunPython

ROOT = Path(__file__).parents[2]


def test_import_is_light_and_silent(run_python: RunPython) -> None:
    code = """
import socket, sys, time
def refuse(*_, **__): raise AssertionError("network at import")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import timm
before = set(sys.modules)
start = time.process_time()
import spd_weights
print(time.process_time() - start)
heavy = {"accelerate", "datasets", "pandas", "rich", "sklearn", "scipy", "train", "eval", "tyro", "matplotlib"}
assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5  # seconds over `import timm`, which takes some


def test_package_depends_on_nothing_above_it() -> None:
    allowed = {"timm", "torch", "huggingface_hub", "safetensors", "numpy", "spd_weights", *sys.stdlib_module_names}
    for path in (ROOT / "spd_weights").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built without network, by an installed hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"spd_weights"}
    for name in ("catalog.json", "card_template.md", "py.typed", "cli.py"):
        assert f"spd_weights/{name}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
