"""Stopping early in good order: signals and the time limit, obeyed between two steps."""

import os
import signal
import sys
import time
from types import FrameType, TracebackType

REQUEUE = 75
"""Exit code of a run that was told to stop, its state saved: start it again (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_TIME = "--max-hours"
_REASONS = ("SIGTERM", "SIGUSR1", "SIGINT", _TIME)
_ECHO = 1.0  # seconds: launchers pass a terminal's Ctrl-C on to processes that have it already


class Stopped(Exception):
    """A run that ended before its last step, with everything saved; the same command goes on."""

    def __init__(self, message: str, code: int) -> None:
        """Say why.

        Args:
            message: for the user.
            code: the process's exit code.
        """
        super().__init__(message)
        self.code = code


class StopRequest:
    """Notes SIGTERM, SIGUSR1 (what SLURM sends ahead of a time limit) and Ctrl-C instead of dying of them.

    A context manager. Inside it a second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self, max_hours: float | None) -> None:
        """Start counting.

        Args:
            max_hours: from now on; None is no limit.
        """
        self.deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self.noted: dict[str, float] = {}

    def __enter__(self) -> "StopRequest":
        """Take over the signals."""
        self.before = {name: signal.signal(signal.Signals[name], self._note) for name in _REASONS if name != _TIME}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for name, handler in self.before.items():
            signal.signal(signal.Signals[name], handler)
        if kind is Stopped and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # torchrun terminates the others when the first has ended; their exit codes are to be their own.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if name == "SIGINT" and now - self.noted.get(name, now) > _ECHO:
            raise KeyboardInterrupt
        if not self.noted:
            print(f"{name}: finishing the step, then saving", file=sys.stderr, flush=True)
        self.noted.setdefault(name, now)

    def votes(self) -> list[float]:
        """One number a reason, 1 where this process has it: summed over processes they all decide alike."""
        expired = self.deadline is not None and time.monotonic() >= self.deadline
        return [float(name in self.noted or (name == _TIME and expired)) for name in _REASONS]


def verdict(votes: list[float]) -> tuple[str, int] | None:
    """The reason that `StopRequest.votes`, summed over processes, give for stopping, and its exit code."""
    reasons = [name for name, count in zip(_REASONS, votes, strict=True) if count > 0]
    if not reasons:
        return None
    return reasons[0], INTERRUPTED if reasons[0] == "SIGINT" else REQUEUE
