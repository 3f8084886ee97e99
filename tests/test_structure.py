"""The shape of the source: sizes of folders, files and functions, and who imports whom.

Each rule is a function of a source tree. It must find nothing here, and must find each fault planted in a small tree.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("train", "eval", "spd_weights", "synthetic")
MOST_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 14, 300, 60

EXCEPTIONS: dict[str, str] = {}
"""What a rule may find, with the reason: {"eval/long.py": "why it is not split"}."""

FORBIDDEN_IMPORTS = {
    "train": {"eval", "synthetic", "tests", "examples"},
    "eval": {"train", "synthetic", "tests", "examples"},
    "spd_weights": {"train", "eval", "synthetic", "tests", "examples"},
    "synthetic": {"train", "eval", "tests", "examples"},
}
NOT_AT_IMPORT = ("spd_weights.release", "accelerate", "datasets", "scipy")


def modules(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def crowded_folders(root: Path) -> list[str]:
    """Folders with too many modules; __init__.py only marks a folder and is not counted."""
    counts = Counter(path.parent for path in modules(root) if path.name != "__init__.py")
    return [
        f"{folder.relative_to(root)} has {count} modules" for folder, count in counts.items() if count > MOST_MODULES
    ]


def long_files(root: Path) -> list[str]:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(root)}
    return [f"{path.relative_to(root)} has {size} lines" for path, size in sizes.items() if size > MOST_LINES]


def long_functions(root: Path) -> list[str]:
    found = []
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                if size > MOST_FUNCTION_LINES:
                    found.append(f"{path.relative_to(root)}: {node.name} has {size} lines")
    return found


def forbidden_imports(root: Path) -> list[str]:
    """Imports between packages, at module level or inside a function, absolute or relative."""
    found = []
    for path in modules(root):
        relative = path.relative_to(root)
        for name in imported(path.read_text(encoding="utf-8"), relative.parent.parts):
            if name.split(".")[0] in FORBIDDEN_IMPORTS[relative.parts[0]]:
                found.append(f"{relative} imports {name}")
    return found


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Absolute names of what a module of the given package imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the module's own package; more dots than that can climb out of train/ and into eval/.
            base = package[: len(package) + 1 - node.level] if node.level else ()
            start = [*base, *(node.module or "").split(".")]
            yield from (".".join(filter(None, [*start, alias.name])) for alias in node.names)


def absolute_imports(root: Path) -> list[str]:
    """Absolute imports of train inside train, and of eval inside eval: both are also packaged under other names."""
    found = []
    for package in ("train", "eval"):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                found += [f"{path.relative_to(root)} imports {n}" for n in names if n.split(".")[0] == package]
    return found


RULES = (crowded_folders, long_files, long_functions, forbidden_imports, absolute_imports)


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule) -> None:
    assert [finding for finding in rule(ROOT) if not any(name in finding for name in EXCEPTIONS)] == []


def test_every_exception_has_a_reason_and_is_needed() -> None:
    findings = [finding for rule in RULES for finding in rule(ROOT)]
    for name, reason in EXCEPTIONS.items():
        assert len(reason) > 20, f"{name}: why?"
        assert any(name in finding for finding in findings), f"{name} is no exception any more"


@pytest.mark.parametrize(
    ("rule", "files", "finding"),
    [
        (crowded_folders, {f"train/m{n}.py": "" for n in range(15)}, "train has 15 modules"),
        (crowded_folders, {f"eval/data/m{n}.py": "" for n in range(15)}, "eval/data has 15 modules"),
        (long_files, {"eval/long.py": "x = 1\n" * 301}, "eval/long.py has 301 lines"),
        (long_functions, {"train/a.py": "def f():\n" + "    x = 1\n" * 60}, "train/a.py: f has 61 lines"),
        (long_functions, {"train/a.py": "class A:\n def f(self):\n" + "  x = 1\n" * 60}, "train/a.py: f has 61 lines"),
        (forbidden_imports, {"train/a.py": "import eval.data"}, "train/a.py imports eval.data"),
        (forbidden_imports, {"eval/a.py": "def f():\n  from train.views import b"}, "eval/a.py imports train.views.b"),
        (forbidden_imports, {"eval/a.py": "from ..train import loop"}, "eval/a.py imports train.loop"),
        (forbidden_imports, {"eval/data/a.py": "from ... import train"}, "eval/data/a.py imports train"),
        (forbidden_imports, {"spd_weights/a.py": "import train"}, "spd_weights/a.py imports train"),
        (forbidden_imports, {"spd_weights/b/a.py": "from eval import b"}, "spd_weights/b/a.py imports eval.b"),
        (absolute_imports, {"train/a.py": "from train.views import b"}, "train/a.py imports train.views"),
        (absolute_imports, {"eval/a.py": "import eval.run"}, "eval/a.py imports eval.run"),
    ],
)  # fmt: skip
def test_rule_finds_a_planted_fault(rule, files: dict[str, str], finding: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(tmp_path) == [finding]


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (crowded_folders, {f"train/m{n}.py": "" for n in range(14)} | {"train/__init__.py": ""}),
        (long_files, {"eval/long.py": "x = 1\n" * 300}),
        (long_functions, {"train/a.py": "def f():\n" + "    x = 1\n" * 59}),
        (forbidden_imports, {"train/views/a.py": "from ..data import a", "eval/b.py": "from .train import x"}),
        (absolute_imports, {"train/a.py": "from .views import b\nfrom spd_weights import train"}),
    ],
)  # fmt: skip
def test_rule_allows_what_is_just_inside(rule, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(tmp_path) == []


def loaded(statement: str) -> set[str]:
    """Which of NOT_AT_IMPORT a new process has loaded after a statement."""
    code = f"import sys; {statement}; print(*(n for n in {NOT_AT_IMPORT!r} if n in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_of_spd_weights_is_light() -> None:
    assert loaded("import spd_weights") == set()


def test_a_heavy_import_would_be_noticed() -> None:
    assert loaded("import spd_weights.release, scipy") == {"spd_weights.release", "scipy"}
