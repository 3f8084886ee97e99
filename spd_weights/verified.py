"""Which files' bytes were checked already, so that the digest of a weight is computed once and not at every load.

A file is taken as unchanged while its path, size, inode and both times are what they were when it was read. The
kernel sets the time of a change (ctime) whenever bytes are written, and no program can set it back, so damage and
replacement are seen. It does not guard against somebody who may write to this account's files: that person could
change this package, too.
"""

import os
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from spd_weights.errors import SpdError
from spd_weights.files import read_json, sha256, write_json


def digest(path: Path) -> str:
    """The sha256 of a file, from memory where the file is as it was.

    Raises:
        SpdError: The file cannot be read.
    """
    path = path.resolve()  # the Hub's cache holds links to blobs
    before = _fingerprint(path)
    known = _load().get(str(path))
    if isinstance(known, dict) and before is not None and known.get("is") == before:
        return str(known.get("sha256"))
    found = sha256(path)
    if before is not None and before == _fingerprint(path):
        _remember(path, {"is": before, "sha256": found})
    return found


def _store() -> Path:
    return Path(constants.HF_HOME) / "spd_weights" / "verified.json"


def _fingerprint(path: Path) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _load() -> dict[str, object]:
    try:
        return read_json(_store())
    except SpdError:  # not there yet, or damaged: the digest is computed
        return {}


def _remember(path: Path, entry: dict[str, object]) -> None:
    """Write the entry; two processes at once may lose one, which costs a digest and nothing else."""
    kept = {name: value for name, value in _load().items() if Path(name).is_file()}
    with suppress(OSError):  # a read-only home: the digest is computed every time
        _store().parent.mkdir(parents=True, exist_ok=True)
        write_json(_store(), {**kept, str(path): entry})
