"""Stopping early without losing work: signals and the time limit, handled between two steps."""

import os
import signal
import sys
import time
from types import FrameType, TracebackType

REQUEUE = 75
"""Exit code of a run that was asked to stop and saved its state: start it again (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

_TIME = "--max-hours"
_REASONS = ("SIGTERM", "SIGUSR1", "SIGINT", _TIME)
_ECHO = 1.0  # seconds: launchers forward a terminal's Ctrl-C to processes that have already received it


class Stopped(Exception):
    """A run ended before its last step with its state saved; the same command resumes it."""

    def __init__(self, message: str, code: int) -> None:
        """Store the reason.

        Args:
            message: for the user.
            code: the process's exit code.
        """
        super().__init__(message)
        self.code = code


class StopRequest:
    """Records SIGTERM, SIGUSR1 (which SLURM sends ahead of a time limit) and Ctrl-C instead of dying of them.

    Use it as a context manager. Inside, a second Ctrl-C raises KeyboardInterrupt immediately.
    """

    def __init__(self, max_hours: float | None) -> None:
        """Start the clock.

        Args:
            max_hours: hours from now; None for no limit.
        """
        self.deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self.received: dict[str, float] = {}

    def __enter__(self) -> "StopRequest":
        """Install the signal handlers."""
        self.previous = {name: signal.signal(signal.Signals[name], self._record) for name in _REASONS if name != _TIME}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        for name, handler in self.previous.items():
            signal.signal(signal.Signals[name], handler)
        if kind is Stopped and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # torchrun sends SIGTERM to the other processes once the first has ended; keep their own exit codes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _record(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if name == "SIGINT" and now - self.received.get(name, now) > _ECHO:
            raise KeyboardInterrupt
        if not self.received:
            print(f"{name}: finishing the step, then saving", file=sys.stderr, flush=True)
        self.received.setdefault(name, now)

    def votes(self) -> list[float]:
        """One number per reason to stop: 1 if this process has it. All processes decide by the sums, so they agree."""
        expired = self.deadline is not None and time.monotonic() >= self.deadline
        return [float(name in self.received or (name == _TIME and expired)) for name in _REASONS]


def verdict(votes: list[float]) -> tuple[str, int] | None:
    """The reason to stop and its exit code, from `StopRequest.votes` summed over processes; None to continue."""
    reasons = [name for name, count in zip(_REASONS, votes, strict=True) if count > 0]
    if not reasons:
        return None
    return reasons[0], INTERRUPTED if reasons[0] == "SIGINT" else REQUEUE
