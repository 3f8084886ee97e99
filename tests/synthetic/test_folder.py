"""The folders that the two commands write: the same bytes again, complete or absent, and nothing overwritten."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from spd_weights.errors import SpdError
from synthetic import parts, scenes
from synthetic.folder import main, write

ROOT = Path(__file__).parents[2]
FEW = {
    parts: {"train": 2, "test-normal": 1, "anomalies": 4, "size": 64, "seed": 0},
    scenes: {"count": 3, "size": 32, "seed": 0},
}


def run(module: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: int) -> int:
    """The module's command, in this process: a new one would spend seconds on imports."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [module.__name__, "--to", str(folder), *words])
    return main(module.__name__, module.__doc__, module.OPTIONS, module.files)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("module", FEW)
def test_another_process_writes_the_same_bytes(module: ModuleType, tmp_path: Path) -> None:
    options = [word for name, value in FEW[module].items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", module.__name__, "--to", str(tmp_path / "one"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'one'}: complete\n", "")
    assert write(tmp_path / "other", module.__name__, FEW[module], module.files)
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_a_second_run_writes_nothing_and_other_arguments_are_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    assert run(scenes, tmp_path, monkeypatch, **FEW[scenes]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(scenes, tmp_path, monkeypatch, **FEW[scenes]) == 0
    assert run(scenes, tmp_path, monkeypatch, **FEW[scenes] | {"seed": 1}) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}: complete\n{tmp_path}: already there\n"
    assert said.err.startswith(f"error: {tmp_path} holds something other than these pictures")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("module", "option", "minimum"),
    [(module, name, low) for module in FEW for name, (_, low, _) in module.OPTIONS.items()],
)
def test_values_below_the_minimum_get_a_message(
    module: ModuleType, option: str, minimum: int, tmp_path: Path, monkeypatch, capsys
) -> None:
    assert run(module, tmp_path / "out", monkeypatch, **{option: minimum - 1}) == 2
    assert capsys.readouterr().err == f"error: --{option} {minimum - 1}: must be at least {minimum}\n"
    assert not (tmp_path / "out").exists()


def test_folder_called_visa_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    assert run(parts, tmp_path / "VisA", monkeypatch) == 2
    assert "must not pass for VisA" in capsys.readouterr().err
    assert not (tmp_path / "VisA").exists()


def test_other_content_is_left_alone_and_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(arguments):
        yield from list(scenes.files({"count": 1, "size": 32, "seed": 0}))
        raise KeyboardInterrupt

    (tmp_path / "notes.txt").write_text("mine")
    for manifest in (None, "[]", "{}", "no json"):
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(SpdError, match="something other than these pictures"):
            write(tmp_path, "test", {}, interrupted)
    with pytest.raises(SpdError, match="something other"):
        write(tmp_path / "notes.txt", "test", {}, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", "test", {}, interrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled_and_its_manifest_names_the_arguments(tmp_path: Path) -> None:
    arguments = {"count": 2, "size": 32, "seed": 7}
    assert write(tmp_path, "synthetic.scenes", arguments, scenes.files)
    assert json.loads((tmp_path / "manifest.json").read_text())["arguments"] == arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.jpg", "000001.jpg", "manifest.json"]
