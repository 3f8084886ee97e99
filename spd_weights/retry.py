"""Asking the Hub again after what passes: too many requests, a restart, a dropped connection."""

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

# httpx's or httpx2's, as the installed huggingface_hub has it: connections, timeouts, broken transfers.
TransportError: type[Exception] = HfHubHTTPError.__bases__[0]

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt, where the Hub names no time
LONGEST = 300.0  # the Hub's rate limits are a window of five minutes

_PASSING = (408, 429, 500, 502, 503, 504)
_Answer = TypeVar("_Answer")


def patiently(call: Callable[[], _Answer]) -> _Answer:
    """Call, and call again after a pause while the failure is one that passes.

    Args:
        call: Reads, or writes what can be written twice without harm.

    Raises:
        Exception: The last failure, or the first that does not pass.
    """
    for wait in WAITS:
        try:
            return call()
        except (TransportError, OSError, RuntimeError) as error:
            pause = pause_after(error, wait)
            if pause is None:
                raise
            time.sleep(pause)
    return call()


def pause_after(error: BaseException, wait: float) -> float | None:
    """Say how long to wait before another attempt.

    Args:
        error: What the Hub client raised.
        wait: Seconds where the Hub names none (Retry-After).

    Returns:
        Seconds, or None where another attempt would fail like this one or the Hub asks for more than LONGEST.
    """
    error = cause(error)
    status = status_of(error)
    if status is None:
        return wait if isinstance(error, TransportError) and not isinstance(error, HfHubHTTPError) else None
    if status not in _PASSING:
        return None
    seconds = retry_after(error)
    if seconds is None:
        return wait
    return seconds if seconds <= LONGEST else None


def cause(error: BaseException) -> BaseException:
    """Unwrap what the Hub client hides: why an upload failed, and why it only looked into the cache."""
    hidden = error.__cause__
    if isinstance(error, RuntimeError) and hidden is not None:
        return hidden
    if isinstance(error, LocalEntryNotFoundError) and isinstance(hidden, TransportError):
        return hidden
    return error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer; None where there was no answer."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def retry_after(error: BaseException) -> float | None:
    """The seconds that the Hub asks to wait, if it does."""
    stated = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return float(stated) if stated.isdecimal() else None
