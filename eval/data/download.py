"""`python -m eval download`: public data sets, resumed where a download broke, checked before it is unpacked."""

import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from spd_weights.errors import SpdError
from spd_weights.files import sha256

URL_VARIABLE = "SPD_VISA_URL"
_TRIES = 6  # without a single new byte
_TIMEOUT = 60  # seconds without an answer
_PIECE = 1 << 20
_DONE = ".complete"


@dataclass(frozen=True)
class Archive:
    """A tar file as published."""

    url: str
    size: int
    sha256: str


ARCHIVES = {
    # VisA, CC BY 4.0; the digest is the one that public loaders of the data set agree on.
    "visa": Archive(
        "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        1_929_840_640,
        "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
    )
}


def download(archive: Archive, folder: Path, wait: Callable[[float], None] = time.sleep) -> Path:
    """Fetch, check and unpack an archive; a repeated call goes on where the last one ended, or does nothing.

    Args:
        archive: What to fetch.
        folder: Receives the archive's content, and until that is whole the archive itself.
        wait: Sleeps between tries, given seconds.

    Returns:
        `folder`.

    Raises:
        SpdError: No room, no connection, other bytes than published, or an archive that would write
            outside the folder. What was fetched is kept unless its bytes are wrong.
    """
    marker = folder / _DONE
    if marker.is_file() and marker.read_text().strip() == archive.sha256:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{archive.sha256[:16]}.tar.part"
        _check_room(folder, part, archive.size)
        with _bars() as bars:
            _fetch(archive, part, bars, wait)
            bars.print("checking sha256")
            _check_digest(archive, part)
            bars.print("unpacking")
            unpack(part, folder)
        marker.write_text(archive.sha256 + "\n")
        part.unlink()
    except OSError as error:
        raise SpdError(f"{folder}: cannot be written ({error}); mend that or choose another --to") from error
    return folder


def unpacked(data: Path) -> Path:
    """The folder of a data set: `data`, or what the tar file `data` holds, unpacked once, to `data`.unpacked.

    Raises:
        SpdError: As `unpack`, or no room.
    """
    if not data.is_file():
        return data
    folder = data.with_name(f"{data.name}.unpacked")
    marker, state = folder / _DONE, f"{data.stat().st_size} {data.stat().st_mtime_ns}\n"
    if not (marker.is_file() and marker.read_text() == state):
        try:
            unpack(data, folder)
            marker.write_text(state)
        except OSError as error:
            raise SpdError(f"{folder}: cannot be written ({error}); unpack {data} elsewhere and give that") from error
    return folder


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar file of plain files and folders; every member is looked at before the first is written.

    Raises:
        SpdError: A damaged archive, a path that leaves `folder`, a link or a device.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            for member in members:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
                    raise SpdError(f"{path}: its member {member.name!r} would leave {folder}; do not trust this file")
                if not (member.isfile() or member.isdir()):
                    raise SpdError(f"{path}: its member {member.name!r} is a link or a device; do not trust this file")
                if (target := folder / name).resolve() != folder.resolve() / name:
                    raise SpdError(f"{target}: leads elsewhere through a link; remove that or choose another --to")
            for member in members:
                _write(tar, member, folder / member.name)
    except tarfile.TarError as error:
        raise SpdError(
            f"{path}: not a readable tar file ({error}); download it again, or unpack it yourself"
        ) from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if target.is_file() and target.stat().st_size == member.size:  # of an unpacking that was cut off
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.part")
    source = tar.extractfile(member)
    assert source is not None
    with source, beside.open("wb") as file:
        shutil.copyfileobj(source, file, _PIECE)
    os.replace(beside, target)


def _fetch(archive: Archive, part: Path, bars: "_Bars", wait: Callable[[float], None]) -> None:
    failures = 0
    while (have := part.stat().st_size if part.exists() else 0) < archive.size:
        try:
            _fetch_rest(archive, part, have, bars)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise SpdError(f"{archive.url}: the server answers {error.code} {error.reason}; check --url") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.filename:  # a file of ours, not the connection
                raise
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            reason = "the connection ended early"
        size = part.stat().st_size if part.exists() else 0
        failures = 0 if size > have else failures + 1
        if size < archive.size:
            if failures == _TRIES:
                raise SpdError(
                    f"{archive.url}: {reason}; {size} of {archive.size} bytes are kept in {part}, "
                    "and the same command goes on from there"
                )
            wait(min(30.0, 2.0**failures))


def _fetch_rest(archive: Archive, part: Path, have: int, bars: "_Bars") -> None:
    """Append what is missing; from the start where the server does not know ranges."""
    headers = {"User-Agent": "spd-weights", **({"Range": f"bytes={have}-"} if have else {})}
    response: HTTPResponse
    with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise SpdError(f"{archive.url}: the server sends another range than asked for; check --url")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        if length and start + int(length) != archive.size:
            raise SpdError(
                f"{archive.url}: {start + int(length)} bytes there, {archive.size} were published; check --url"
            )
        with part.open("ab" if resumed else "wb") as file:
            while piece := response.read1(_PIECE):
                file.write(piece)
                bars.at(file.tell(), archive.size)


def _check_digest(archive: Archive, part: Path) -> None:
    size, digest = part.stat().st_size, sha256(part)
    if (size, digest) != (archive.size, archive.sha256):
        part.unlink()
        raise SpdError(
            f"{archive.url}: sha256 {digest} of {size} bytes, but {archive.sha256} of {archive.size} were published; "
            "the file was removed: download it again, or check --url"
        )


def _check_room(folder: Path, part: Path, size: int) -> None:
    """The archive, and its content beside it; what is already there takes no more."""
    have = part.stat().st_size if part.exists() else 0
    needed, free = 2 * size - have, shutil.disk_usage(folder).free
    if free < needed:
        raise SpdError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the archive and its content; "
            "make room or choose another --to"
        )


class _Bars:
    """A progress bar on stderr where somebody looks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("downloading", total=None)

    def at(self, done: int, of: int) -> None:
        self._progress.update(self._task, completed=done, total=of)

    def print(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _bars() -> _Bars:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    return _Bars(Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()))
