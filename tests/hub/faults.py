"""What can go wrong between a client and `server`, as values for `HubServer.fault`."""

import time
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any

from tests.hub.protocol import Handler

Act = Callable[[Handler], bool]


class Faults:
    """Acts on the first `times` requests of `method` whose path has `part`.

    Attributes:
        seen: How often it acted.
    """

    def __init__(self, method: str, part: str, act: Act, times: int = 1) -> None:
        self.method, self.part, self.act, self.times, self.seen = method, part, act, times, 0

    def __call__(self, handler: Handler) -> bool:
        if self.seen >= self.times or handler.command != self.method or self.part not in handler.path:
            return False
        self.seen += 1
        return self.act(handler)


def answer(status: int, **headers: str) -> Act:
    """Answer with a status and nothing else."""

    def act(handler: Handler) -> bool:
        handler.reply({"error": "a fault"}, status, **headers)
        return True

    return act


def hang_up(handler: Handler) -> bool:
    """Close the connection without an answer."""
    handler.close_connection = True
    return True


def truncate(size: int) -> Act:
    """Announce the whole answer, send `size` bytes of it, and close the connection."""
    return _through(lambda wire: _Truncated(wire, size))


def drip(size: int, pause: float) -> Act:
    """Send the answer in pieces of `size` bytes, waiting `pause` seconds before each."""
    return _through(lambda wire: _Dripping(wire, size, pause))


def shorten(size: int) -> Act:
    """Announce and send `size` bytes of a file, as if there were no more."""

    def act(handler: Handler) -> bool:
        send = handler.send
        handler.send = lambda content, *args, **headers: send(content[:size], *args, **headers)  # type: ignore[method-assign]
        handler.close_connection = True
        return False

    return act


def _through(wrap: Callable[[Any], Any]) -> Act:
    def act(handler: Handler) -> bool:
        handler.wfile = wrap(handler.wfile)
        handler.close_connection = True
        return False

    return act


class _Truncated:
    def __init__(self, wire: BufferedIOBase, size: int) -> None:
        self.wire, self.left = wire, size

    def write(self, content: bytes) -> int:
        # The head of the answer is a write of its own, and passes.
        if content.startswith(b"HTTP/"):
            return self.wire.write(content)
        self.wire.write(content[: self.left])
        self.left = max(0, self.left - len(content))
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wire, name)


class _Dripping:
    def __init__(self, wire: BufferedIOBase, size: int, pause: float) -> None:
        self.wire, self.size, self.pause = wire, size, pause

    def write(self, content: bytes) -> int:
        for start in range(0, len(content), self.size):
            time.sleep(self.pause)
            self.wire.write(content[start : start + self.size])
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wire, name)
