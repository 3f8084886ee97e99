"""Files that are complete or absent: digests, JSON, and folders swapped into place."""

import hashlib
import json
import math
import os
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
    """The sha256 of a file, or of what shall be one."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def is_folder(path: Path) -> bool:
    """Say whether there is such a folder; a name that no folder can have (too long, a zero byte) has none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SpdError: The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpdError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpdError(f"{path} is not JSON: {error}; write it again") from error
    if not isinstance(value, dict):
        raise SpdError(f"{path} is not a JSON object; write it again")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `json_text`."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON; numbers that are not finite become null, which JSON has and NaN it has not."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing(directory: Path, known: Collection[str]) -> Iterator[Path]:
    """Give an empty folder beside `directory` to fill, and swap it in when the block ends without an error.

    Args:
        directory: The folder to appear; its parents are made.
        known: Names of files that an earlier version may hold. A folder with anything else is left alone.

    Raises:
        SpdError: `directory` is a file, cannot be written, or holds other files.
    """
    # "runs/.." and "." have no name of their own to put a sibling beside.
    directory = Path(os.path.abspath(directory))
    if directory.exists():
        if not directory.is_dir():
            raise SpdError(f"{directory} is a file; name a folder")
        if strangers := sorted(entry.name for entry in directory.iterdir() if entry.name not in known):
            raise SpdError(f"{directory} holds other files ({', '.join(strangers[:3])}); name another")
    beside = directory.with_name(f".{directory.name}.new-{os.getpid()}")
    former = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        yield beside
        if directory.exists():
            os.rename(directory, former)
        os.rename(beside, directory)
    except OSError as error:
        if former.exists() and not directory.exists():
            os.rename(former, directory)
        raise SpdError(f"{directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def holds(directory: Path, manifest: Mapping[str, Any], what: str) -> bool:
    """Say whether a folder is the complete product of an earlier call, by the manifest.json written into it last.

    Args:
        directory: The folder.
        manifest: What this call would write there, JSON-ready.
        what: How the message calls the product.

    Returns:
        False where the folder is absent or empty.

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
