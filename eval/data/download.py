"""`python -m eval download`: public data sets; downloads resume, and archives are verified before unpacking."""

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
_TRIES = 6  # in a row without a new byte
_TIMEOUT = 60  # seconds without data
_PIECE = 1 << 20
_DONE = ".complete"


@dataclass(frozen=True)
class Archive:
    """A published tar file."""

    url: str
    size: int
    sha256: str


ARCHIVES = {
    # VisA, CC BY 4.0; public loaders of the data set agree on this digest.
    "visa": Archive(
        "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        1_929_840_640,
        "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
    )
}


def download(archive: Archive, folder: Path, wait: Callable[[float], None] = time.sleep) -> Path:
    """Download, verify and unpack an archive; a repeated call resumes, or does nothing if all is done.

    Args:
        archive: What to download.
        folder: Receives the content of the archive, and the archive itself until it is unpacked.
        wait: Sleeps between tries for the given number of seconds.

    Returns:
        `folder`.

    Raises:
        SpdError: There is no room or no connection, the bytes differ from the published ones, or the archive would
            write outside the folder. The partial download is kept unless its bytes are wrong.
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
        raise SpdError(f"{folder}: cannot be written ({error}); fix that or choose another --to") from error
    return folder


def unpacked(data: Path) -> Path:
    """Unpack `data` to `data`.unpacked if it is a tar file, unless that is done already.

    Returns:
        The folder of the data set: `data` itself if it is a folder.

    Raises:
        SpdError: As `unpack`, or the folder cannot be written.
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
    """Unpack a tar file of plain files and folders; every member is checked before the first is written.

    Raises:
        SpdError: The archive is damaged, or a member would leave `folder` or is a link or a device.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            for member in members:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
                    raise SpdError(
                        f"{path}: member {member.name!r} would be written outside {folder}; do not trust this file"
                    )
                if not (member.isfile() or member.isdir()):
                    raise SpdError(f"{path}: member {member.name!r} is a link or a device; do not trust this file")
                if (target := folder / name).resolve() != folder.resolve() / name:
                    raise SpdError(f"{target}: is reached through a link; remove the link or choose another --to")
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
    if target.is_file() and target.stat().st_size == member.size:  # left by an interrupted run
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    source = tar.extractfile(member)
    assert source is not None
    with source, partial.open("wb") as file:
        shutil.copyfileobj(source, file, _PIECE)
    os.replace(partial, target)


def _fetch(archive: Archive, part: Path, bars: "_Bars", wait: Callable[[float], None]) -> None:
    failures = 0
    while (have := part.stat().st_size if part.exists() else 0) < archive.size:
        try:
            _fetch_rest(archive, part, have, bars)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise SpdError(
                    f"{archive.url}: the server answered {error.code} {error.reason}; check --url"
                ) from error
            reason = f"{error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.filename:  # writing failed, not the connection
                raise
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            reason = "the connection ended early"
        size = part.stat().st_size if part.exists() else 0
        failures = 0 if size > have else failures + 1
        if size < archive.size:
            if failures == _TRIES:
                raise SpdError(
                    f"{archive.url}: {reason}; {size} of {archive.size} bytes are kept in {part}; "
                    "run the same command again to resume"
                )
            wait(min(30.0, 2.0**failures))


def _fetch_rest(archive: Archive, part: Path, have: int, bars: "_Bars") -> None:
    """Append the missing bytes; start over if the server does not support ranges."""
    headers = {"User-Agent": "spd-weights", **({"Range": f"bytes={have}-"} if have else {})}
    response: HTTPResponse
    with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise SpdError(f"{archive.url}: the server sent another range than requested; check --url")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        if length and start + int(length) != archive.size:
            raise SpdError(
                f"{archive.url}: the file there has {start + int(length)} bytes, "
                f"the published one {archive.size}; check --url"
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
            f"{archive.url}: got {size} bytes with sha256 {digest}, but the published file has {archive.size} bytes "
            f"with {archive.sha256}; the download was removed: try again, or check --url"
        )


def _check_room(folder: Path, part: Path, size: int) -> None:
    """Refuse if the rest of the archive and its content do not fit on the disk."""
    have = part.stat().st_size if part.exists() else 0
    needed, free = 2 * size - have, shutil.disk_usage(folder).free
    if free < needed:
        raise SpdError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the archive and its content; "
            "make room or choose another --to"
        )


class _Bars:
    """A progress bar on stderr, if stderr is a terminal."""

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
