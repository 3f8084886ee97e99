"""Digests, JSON, and files and folders that are complete or absent."""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError


def sha256(path: Path) -> str:
    """Digest a file in 1 MiB pieces.

    Returns:
        64 hexadecimal digits.

    Raises:
        SpdError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise SpdError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def digest_of(content: Path | bytes) -> str:
    """The sha256 of a file or of bytes."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def is_folder(path: Path) -> bool:
    """Say whether a folder exists; False for names no folder can have (too long, or with a null byte)."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SpdError: The file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpdError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the latter from thousands of nested brackets
        raise SpdError(f"{path} is not JSON: {error}; write it again") from error
    if not isinstance(value, dict):
        raise SpdError(f"{path} is not a JSON object; write it again")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value as `json_text`, so that a reader sees the old file or the new one, never a part."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Format a value as indented JSON; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part.

    File names need not be valid UTF-8. Bytes that are not are written as `\\udcXX`, which JSON reads back.
    """
    with staged(path) as staging:
        staging.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Provide the name of a file beside `path` to write, and move it to `path` if the block ends without an error."""
    staging = path.with_name(f".{path.name}.{_unique()}")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def replacing(directory: Path, known: Collection[str]) -> Iterator[Path]:
    """Provide an empty folder to fill, and move it to `directory` if the block ends without an error.

    Args:
        directory: The folder to create or replace; missing parents are created.
        known: Names of files that an earlier version may hold. A folder with any other file is not replaced.

    Raises:
        SpdError: `directory` is a file, cannot be written, or holds other files.
    """
    # "runs/.." and "." have no last part from which a sibling's name could be made; a link stays, its folder changes.
    directory = Path(os.path.realpath(directory))
    token = _unique()
    staging = directory.with_name(f".{directory.name}.new-{token}")
    former = directory.with_name(f".{directory.name}.old-{token}")
    try:
        if strangers := sorted(set(_entries(directory)) - set(known)):
            raise SpdError(f"{directory} holds other files ({', '.join(strangers[:3])}); name another")
        staging.mkdir(parents=True)
        yield staging
        _swap(staging, directory, former)
    except OSError as error:
        if os.path.exists(former) and not os.path.exists(directory):
            os.rename(former, directory)
        raise SpdError(f"{directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:  # it does not exist, or another process is just replacing it
        return []
    except NotADirectoryError as error:
        if directory.is_file():
            raise SpdError(f"{directory} is a file; name a folder") from error
        raise  # a file is one of its parents


def _unique() -> str:
    # Not the process id: containers that share a disk have the same ones.
    return secrets.token_hex(4)


def _swap(staging: Path, directory: Path, former: Path) -> None:
    """Move `staging` to `directory`, and what is there to `former`."""
    for attempts_left in range(9, -1, -1):
        with suppress(FileNotFoundError):
            os.rename(directory, former)
        try:
            os.rename(staging, directory)
            return
        except OSError as error:
            # Another process put its own folder there in between.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not attempts_left:
                raise
        shutil.rmtree(former, ignore_errors=True)


def already_written(directory: Path, manifest: Mapping[str, Any], what: str) -> bool:
    """Whether a folder holds the complete output of an earlier call; its manifest.json is written last.

    Args:
        directory: The folder.
        manifest: What this call would write there, JSON-ready.
        what: The output's name for the message.

    Returns:
        False if the folder is absent or empty.

    Raises:
        SpdError: It holds something else.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    with suppress(SpdError):
        if read_json(directory / "manifest.json") == manifest:
            return True
    raise SpdError(f"{directory} holds something other than {what}; name another --to, or remove it first")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
