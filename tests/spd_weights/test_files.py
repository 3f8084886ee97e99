"""Folders that are complete or absent, whoever else writes them."""

import os
import threading
from pathlib import Path

import pytest

from spd_weights.errors import SpdError
from spd_weights.files import replacing, staged, write_text

_KNOWN = ("a.txt", "b.txt")


def _put(folder: Path, text: str) -> None:
    with replacing(folder, known=_KNOWN) as beside:
        for name in _KNOWN:
            (beside / name).write_text(text)


def test_a_failure_leaves_the_former_folder(tmp_path: Path) -> None:
    _put(tmp_path / "x", "former")

    def fail() -> None:
        with replacing(tmp_path / "x", known=_KNOWN) as beside:
            (beside / "a.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.read_text() for path in sorted((tmp_path / "x").iterdir())] == ["former"] * 2
    assert os.listdir(tmp_path) == ["x"]


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    write_text(tmp_path / "note", "former")

    def fail() -> None:
        with staged(tmp_path / "note") as staging:
            staging.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "note").read_text() == "former"
    assert os.listdir(tmp_path) == ["note"]


def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    _put(tmp_path / "disk" / "x", "former")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "x")
    _put(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "x" / "a.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]
    assert os.listdir(tmp_path / "disk") == ["x"]


def test_many_at_once_leave_one_of_them_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers that share a disk
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def write(text: str) -> None:
        barrier.wait()
        try:
            for _ in range(20):
                _put(tmp_path / "x", text)
                write_text(tmp_path / "note", text)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(str(i),)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert len({path.read_text() for path in (tmp_path / "x").iterdir()}) == 1
    assert sorted(os.listdir(tmp_path)) == ["note", "x"]


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, words in (
        (tmp_path / ("n" * 300), "cannot be written: .*File name too long"),
        (tmp_path / "file", "is a file; name a folder"),
        (tmp_path / "file" / "x", "cannot be written"),
        (tmp_path, r"holds other files \(file\)"),
    ):
        with pytest.raises(SpdError, match=words):
            _put(folder, "x")
    assert os.listdir(tmp_path) == ["file"]
