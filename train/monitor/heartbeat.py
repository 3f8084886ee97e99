"""A job of several processes ends when one of them is lost, and says which.

Collectives wait for a process that has died on another machine, or hangs, until a timeout that names
nobody. So every process tells the others how far it is, through the store that they met at.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from ..distributed import processes, rank

_WHERE = ("waiting for data", "computing")
_JOIN = 10.0  # seconds: far more than a store that can be reached takes to answer


class Heartbeat:
    """Publishes this process's progress, and watches that of the others, in a thread. Alone, it does nothing."""

    def __init__(self, timeout: float) -> None:
        """Start the thread; has to be called on every process.

        Args:
            timeout: seconds without progress after which the job ends.
        """
        self.timeout, self.interval = timeout, min(2.0, timeout / 5)
        self.beats, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        if processes() == 1:
            return
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=max(timeout, 30)))
        self.keys = [f"heartbeat/{other}" for other in range(processes())]
        self.heard: dict[int, tuple[str, float, int, float]] = {}  # host; since when silent; beats; since when there
        self.ticks = [""] * processes()
        self._publish(0)
        dist.barrier()  # from here on every key exists
        self._listen()
        self.thread.start()

    def beat(self) -> None:
        """Say that the training thread got on: once when a batch has come, once when its step is done."""
        self.beats += 1

    def stop(self) -> None:
        """End the watch: what follows needs no other process."""
        self.ended.set()
        if self.thread.is_alive():
            # A daemon thread that Python finds inside the store when the process exits aborts it: SIGABRT, not 75.
            self.thread.join(_JOIN)

    def gone(self) -> str | None:
        """Who has stopped answering altogether; asked after a collective failed, and takes a few seconds."""
        if processes() == 1:
            return None
        time.sleep(4 * self.interval)
        silent = [r for r, (_, at, _, _) in self.heard.items() if time.monotonic() - at > 2.5 * self.interval]
        return self._describe(silent, "no longer answers") if silent else None

    def _publish(self, tick: int) -> None:
        self.store.set(self.keys[rank()], f"{socket.gethostname()} {self.beats} {tick}")

    def _listen(self) -> None:
        now = time.monotonic()
        for other, value in enumerate(self.store.multi_get(self.keys)):
            text = value.decode()
            host, beats = text.split()[0], int(text.split()[1])
            before = self.heard.get(other, ("", 0.0, -1, 0.0))
            answered = now if text != self.ticks[other] else before[1]
            self.heard[other] = (host, answered, beats, now if beats != before[2] else before[3])
            self.ticks[other] = text

    def _run(self) -> None:
        tick = 0
        while not self.ended.wait(self.interval):
            tick += 1
            try:
                self._publish(tick)
                self._listen()
            except Exception as error:  # the process that holds the store has ended; so does the job
                if not self.ended.wait(self.timeout):
                    self._end(f"the first process cannot be reached: {error}")
                return
            now = time.monotonic()
            silent = [r for r, (_, at, _, _) in self.heard.items() if now - at > self.timeout]
            if silent:
                self._end(self._describe(silent, f"has not answered for {self.timeout:g} s"))
            if all(now - since > self.timeout for _, _, _, since in self.heard.values()):
                least = min(beats for _, _, beats, _ in self.heard.values())
                stuck = [r for r, (_, _, beats, _) in self.heard.items() if beats == least]
                self._end(self._describe(stuck, f"has made no progress for {self.timeout:g} s, {_WHERE[least % 2]}"))

    def _describe(self, ranks: list[int], what: str) -> str:
        names = ", ".join(f"rank {r} on {self.heard[r][0]}" for r in ranks)
        return f"{names} {what} (step {min(self.heard[r][2] for r in ranks) // 2 + 1} of this launch)"

    def _end(self, reason: str) -> None:
        print(
            f"error: {reason}. This process ends, too; the same command goes on from the newest checkpoint.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)  # the training thread may sit in a collective that nothing else gets it out of
