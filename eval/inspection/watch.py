"""Wait for photographs that a camera drops into a folder."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spd_weights.errors import SpdError

from .photographs import photographs_in

_INTERVAL = 1.0  # seconds between two looks into a folder
_SETTLED = 10.0  # seconds without a change after which an unreadable file counts as damaged
_GROUP = 16  # photographs between two checks for Ctrl-C


def arrivals(folders: Sequence[Path], ignored: Path, known: Callable[[Path], bool]) -> Iterator[list[Path]]:
    """Yield new photographs as soon as they are complete, until Ctrl-C or SIGTERM.

    A file is complete when its size and time of modification have not changed between two looks.

    Args:
        folders: Searched to any depth.
        ignored: A folder whose photographs are left out.
        known: Says whether a photograph has been dealt with.

    Yields:
        Groups of photographs, sorted by path; an empty one after each search that finds nothing new.
    """
    before: dict[Path, tuple[int, int]] = {}
    with _stop_signal() as stopped:
        while not stopped():
            found = {file: _state(file) for folder in folders for file in photographs_in(folder, ignored)}
            now = {file: state for file, state in found.items() if state and not known(file)}
            complete = sorted(file for file, state in now.items() if before.get(file) == state)
            before = now
            for first in range(0, len(complete) or 1, _GROUP):
                if not stopped():
                    yield complete[first : first + _GROUP]
            waited = time.monotonic() + _INTERVAL
            while not stopped() and time.monotonic() < waited:
                time.sleep(0.05)


def check_folders(names: Sequence[Path]) -> None:
    """Refuse names that are not folders."""
    for name in names:
        if not name.is_dir():
            raise SpdError(f"{name}: not a folder; --watch waits for photographs in a folder")


def settled(file: Path) -> bool:
    """Say whether a file has not changed for a while, so that nobody is still writing it."""
    state = _state(file)
    return state is None or abs(time.time() - state[1] / 1e9) > _SETTLED  # a camera's clock may be ahead


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:  # deleted or moved meanwhile
        return None
    return status.st_size, status.st_mtime_ns


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag, so that neither interrupts a row that is being written."""
    received: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in wanted}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
