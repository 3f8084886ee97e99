"""Every snippet of the README and the docs works.

- Python blocks run.
- Commands of the walkthroughs run, in the order of their page. Elsewhere a command is parsed by the program that it
  calls, with all its options, and stops there: most need data or GPUs.
- A block below `<!-- not run: REASON -->` is parsed only.

docs/loading.md has its own test (tests/spd_weights/test_routes.py).
"""

import argparse
import ast
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pytest
import tyro

from eval.inspection.commands import ABOVE
from tests.train.helpers import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # runpy's, of modules run again

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "model_cards/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("results/*/README.md")),
]
WALKTHROUGHS = ("docs/inspection.md", "docs/research.md", "docs/review.md")
OTHER_PROGRAMS = {"cp", "export", "git", "hf", "mkdocs", "tail"}  # not ours to check

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```", re.M | re.S
)


class Block(NamedTuple):
    language: str
    text: str
    run: bool


def blocks(page: Path, language: str) -> list[Block]:
    found = [
        Block(match["language"], match["text"], match["reason"] is None)
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if block.language == language and "--8<--" not in block.text]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments and with the block's own variables replaced."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(Template(line).safe_substitute(variables), comments=True)
        if all(re.fullmatch(r"[A-Z_]+=.*", word) for word in words):
            variables |= dict(word.split("=", 1) for word in words)
            continue
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


class Parsed(Exception):
    """The command line was accepted."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse and tyro accept or refuse a command line as always; then the command stops."""

    def then_stop(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_and_stop(*args: Any, **kwargs: Any) -> None:
            parse(*args, **kwargs)
            raise Parsed

        return parse_and_stop

    for owner, name in (
        (argparse.ArgumentParser, "parse_args"), (tyro, "cli"), (tyro.extras, "subcommand_cli_from_dict")
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, then_stop(getattr(owner, name)))


def run_module(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`python -m module arguments`, in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's program exists and takes its options."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert arguments[0] in targets
    elif program in ("pip", "python3"):
        extras = re.findall(r"^(\w+) = \[$", (ROOT / "pyproject.toml").read_text(), flags=re.M)
        for bracketed in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
            assert set(bracketed.split(",")) <= set(extras)
    elif program == "spd-weights":
        parsed("spd_weights", arguments, monkeypatch)
    elif program in ("python", "accelerate", "torchrun"):
        if arguments[0].endswith(".py"):
            assert (ROOT / arguments[0]).is_file()
        else:
            at = arguments.index("-m")
            parsed(arguments[at + 1], arguments[at + 2 :], monkeypatch)
    else:
        assert program in OTHER_PROGRAMS | {"spd-weights"}, f"unknown program {program}"


def parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "…" not in arguments, "write the whole command"
    if module == "train" and arguments[0].isupper():  # a table's placeholder for a recipe
        arguments = ["simsiam", *arguments[1:]]
    with pytest.raises(Parsed):
        run_module(module, arguments, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_accepted(page: Path, parse_only: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "sh"):
        for words in commands(block.text):
            try:
                check(words, monkeypatch)
            except (AssertionError, SystemExit, ValueError) as error:
                pytest.fail(f"{name_of(page)}: {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_command_hides_in_an_indented_block(page: Path):
    hidden = re.findall(r"^ {4}(?:python|make|pip|spd-weights|accelerate|torchrun) .*$", page.read_text(), flags=re.M)
    inside = "".join(block.text for block in blocks(page, "sh"))
    assert [line for line in hidden if line not in inside] == []


@pytest.mark.parametrize(
    "name", ["docs/inspection.md", "docs/review.md", pytest.param("docs/research.md", marks=pytest.mark.slow)]
)
def test_walkthrough(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    page = ROOT / name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["reason"] is not None:
            continue
        if match["language"] == "python":
            exec(match["text"], {})
        elif match["language"] == "sh":
            for words in commands(match["text"]):
                if words[0] == "cp":
                    Path(words[2], Path(words[1]).name).write_bytes(Path(words[1]).read_bytes())
                    continue
                module, arguments = ("spd_weights", words[1:]) if words[0] == "spd-weights" else (words[2], words[3:])
                expected = {0, ABOVE} if "predict" in arguments else {0}
                assert run_module(module, arguments, monkeypatch) in expected, shlex.join(words)


def saved_maps(folder: Path) -> None:
    """What docs/evaluation.md reads."""
    rng = np.random.default_rng(0)
    maps, masks = rng.random((4, 8, 8)).astype(np.float16), rng.random((4, 8, 8)) > 0.8
    masks[0] = False
    np.savez(folder / "maps.npz", maps=maps, masks=masks, anomalous=masks.any((1, 2)))


GIVEN: dict[str, Callable[[Path], None]] = {"docs/evaluation.md": saved_maps}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if name_of(page) not in (*WALKTHROUGHS, "docs/loading.md")], ids=name_of
)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    GIVEN.get(name_of(page), lambda folder: None)(tmp_path)
    for block in blocks(page, "python"):
        if block.run:
            exec(block.text, {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path):
    """`path/to/file.py` in a page is a file of the repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists())
    named = re.findall(rf"`((?:{folders}|docs)/[\w./-]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_reference_pages_name_modules_that_exist():
    for page in ROOT.glob("docs/api/*.md"):
        for module in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.M):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), f"{page.name}: {module}"


def test_troubleshooting_quotes_messages_that_exist():
    """Each quoted message, cut at its `…`, is in the string literals of the source."""
    source = " ".join(_literals())
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\*\*`(.+?)`\*\*$", text, flags=re.M)
    assert len(quoted) > 15
    for message in quoted:
        for part in message.split("…"):
            assert part.strip() in source, f"no message says: {part}"


def _literals() -> Iterator[str]:
    """The string literals of the packages; an f-string is one, with … for what it inserts."""
    for package in ("spd_weights", "train", "eval"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
