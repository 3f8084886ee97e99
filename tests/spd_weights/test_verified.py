import os
from pathlib import Path

import pytest

from spd_weights import verified
from spd_weights.files import sha256


def test_digest_is_computed_once_and_again_after_any_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    reads: list[Path] = []
    monkeypatch.setattr(verified, "sha256", lambda path: reads.append(path) or sha256(path))
    file = tmp_path / "weights"
    file.write_bytes(b"sound")
    assert verified.digest(file) == verified.digest(file) == sha256(file)
    assert len(reads) == 1
    stat = file.stat()
    file.write_bytes(b"soun!")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same mtime, same inode
    assert verified.digest(file) == sha256(file)
    assert len(reads) == 2
    (tmp_path / "home" / "spd_weights" / "verified.json").write_text("{")
    assert verified.digest(file) == sha256(file)
    assert len(reads) == 3


def test_unwritable_home_costs_the_digest_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    (tmp_path / "weights").write_bytes(b"sound")
    assert verified.digest(tmp_path / "weights") == sha256(tmp_path / "weights")
