"""Distrust of what the Hub answers: the client believes every header, and uses some as file names.

The endpoint may be a mirror, a proxy's login page, or hostile.
"""

import importlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from huggingface_hub import constants, get_session
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from spd_weights.errors import SpdError, reason, shown


def _transport_error() -> type[Exception]:
    """Find the HTTP library's base error: huggingface_hub builds on httpx or, from 2.x on, on httpx2."""
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            base: type[Exception] = importlib.import_module(name).HTTPError
            if issubclass(HfHubHTTPError, base):
                return base
    raise ImportError("huggingface_hub uses neither httpx nor httpx2; install a version that pyproject.toml allows")


TransportError = _transport_error()

# What the client uses as file names in its cache, where another text could name any file on this machine.
_FILE_NAMES = {
    "X-Repo-Commit": r"[0-9a-f]{40}",
    "ETag": r'(W/)?"?[\w=+-][\w=+.-]{0,199}"?',
    "X-Linked-Etag": r'(W/)?"?[\w=+-][\w=+.-]{0,199}"?',
    "X-Xet-Hash": r"[0-9a-f]{64}",
}
_MOST_REDIRECTS = 20  # as httpx
_HOOKS = threading.Lock()
_Answer = TypeVar("_Answer")


def understood(call: Callable[[], _Answer]) -> _Answer:
    """Call the Hub client; SpdError if it stumbles over what it was answered, as over a web page instead of JSON."""
    try:
        return call()
    except Exception as error:
        expected = (SpdError, TransportError, OSError, RuntimeError, HFValidationError, EntryNotFoundError)
        if isinstance(error, expected) and not isinstance(error, RecursionError):
            raise
        raise not_a_hub(reason(error)) from error


def commit_id(answered: object) -> str:
    """Check a commit id that the Hub stated: the client would use any other text as a path, too."""
    if not isinstance(answered, str) or not re.fullmatch(_FILE_NAMES["X-Repo-Commit"], answered):
        raise not_a_hub(f"{shown(repr(answered))} is no commit id")
    return answered


@contextmanager
def safe_file_names() -> Iterator[None]:
    """Refuse every answer in which the Hub names a file that the client must not write, and redirects without end."""
    redirects = 0

    def check(response: Any) -> None:
        nonlocal redirects
        redirects = redirects + 1 if response.is_redirect else 0
        if redirects > _MOST_REDIRECTS:  # huggingface_hub 1.4 follows those of a HEAD request for ever
            raise not_a_hub("redirects without end")
        for header, pattern in _FILE_NAMES.items():
            value = response.headers.get(header)
            if value is not None and "X-Repo-Commit" in response.headers and not re.fullmatch(pattern, value, re.ASCII):
                raise not_a_hub(f"{header} is {shown(repr(value))}")

    # Each change makes a new list, because another thread may be going through the old one.
    hooks = get_session().event_hooks
    with _HOOKS:
        hooks["response"] = [*hooks["response"], check]
    try:
        yield
    finally:
        with _HOOKS:
            hooks["response"] = [hook for hook in hooks["response"] if hook is not check]


def not_a_hub(said: str) -> SpdError:
    """The error for an answer that the Hub would not give."""
    return SpdError(f"{constants.ENDPOINT} does not answer like the Hub ({said}); check HF_ENDPOINT")
