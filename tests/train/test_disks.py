"""Disks that are full or cannot be written: a sentence each, and nothing lost. On real file systems of their own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.helpers import arguments, small_config, write_photos
from train.__main__ import main
from train.loop import pretrain


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def test_a_full_disk_costs_nothing_that_was_saved(
    disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):  # fmt: skip
    photos, out = write_photos(tmp_path / "photos", 24), disk / "run"
    assert main(arguments(photos, out, "--max-hours", "1e-9")) == 75
    used = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    (disk / "others").write_bytes(bytes((16 << 20) - used - (100 << 10)))  # 100 kB are left
    assert main(arguments(photos, out)) == 2
    said = capfd.readouterr().err
    assert "step-00000003 could not be written" in said
    assert "No space left on device" in said
    assert "run the same command again to resume from step-00000001" in said
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000001"]
    (disk / "others").unlink()
    assert main(arguments(photos, out)) == 0
    whole = pretrain(small_config(photos, tmp_path / "whole"))
    assert (out / "export/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_disk_that_became_read_only_is_said(disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 24)
    assert main(arguments(photos, disk / "run", "--max-hours", "1e-9")) == 75
    remount(disk, "ro")
    assert main(arguments(photos, disk / "run")) == 2
    assert "listing.train.json cannot be written: Read-only file system" in capfd.readouterr().err
    assert main(arguments(photos, disk / "other")) == 2
    assert "other cannot be written: Read-only file system" in capfd.readouterr().err
