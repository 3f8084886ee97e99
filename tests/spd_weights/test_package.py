import ast
import sys
from pathlib import Path

from tests.conftest import RunPython

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
