"""A watchdog over a job of several processes: when one is lost, the job ends and says which.

Collectives wait for a process that hangs, or that has died on another machine, until a timeout that names
nobody. So every process publishes its progress in the store through which the processes met.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from ..distributed import processes, rank

_PHASES = ("waiting for data", "computing")
_JOIN_SECONDS = 10.0  # far longer than a reachable store takes to answer


class _Peer(NamedTuple):
    """What is known of one process; times are monotonic, in seconds."""

    host: str
    beats: int
    answered: float
    """When its published value last changed."""
    progressed: float
    """When its number of beats last changed."""


class Heartbeat:
    """Publishes this process's progress and watches the others', in a thread. With one process it does nothing."""

    def __init__(self, timeout: float) -> None:
        """Start the thread; call it on every process.

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
        self.peers: dict[int, _Peer] = {}
        self.values = [""] * processes()
        self._publish(0)
        dist.barrier()  # every key exists from here on
        self._listen()
        self.thread.start()

    def beat(self) -> None:
        """Report progress of the training thread: once when a batch has arrived, once when its step is done."""
        self.beats += 1

    def stop(self) -> None:
        """Stop watching: what follows needs no other process."""
        self.ended.set()
        if self.thread.is_alive():
            # If the process exits while this daemon thread is inside the store, it aborts: SIGABRT instead of 75.
            self.thread.join(_JOIN_SECONDS)

    def lost_processes(self) -> str | None:
        """Which processes no longer answer; ask after a collective failed. Takes a few seconds."""
        if processes() == 1:
            return None
        time.sleep(4 * self.interval)
        silent = [r for r, peer in self.peers.items() if time.monotonic() - peer.answered > 2.5 * self.interval]
        return self._describe(silent, "no longer answers") if silent else None

    def _publish(self, tick: int) -> None:
        self.store.set(self.keys[rank()], f"{socket.gethostname()} {self.beats} {tick}")

    def _listen(self) -> None:
        now = time.monotonic()
        for other, content in enumerate(self.store.multi_get(self.keys)):
            value = content.decode()
            host, beats = value.split()[0], int(value.split()[1])
            before = self.peers.get(other, _Peer("", -1, 0.0, 0.0))
            answered = now if value != self.values[other] else before.answered
            progressed = now if beats != before.beats else before.progressed
            self.peers[other] = _Peer(host, beats, answered, progressed)
            self.values[other] = value

    def _run(self) -> None:
        tick = 0
        while not self.ended.wait(self.interval):
            tick += 1
            try:
                self._publish(tick)
                self._listen()
            except Exception as error:  # the process that holds the store has ended, so the job ends too
                if not self.ended.wait(self.timeout):
                    self._end(f"the first process cannot be reached: {error}")
                return
            now = time.monotonic()
            silent = [r for r, peer in self.peers.items() if now - peer.answered > self.timeout]
            if silent:
                self._end(self._describe(silent, f"has not answered for {self.timeout:g} s"))
            if all(now - peer.progressed > self.timeout for peer in self.peers.values()):
                slowest = min(peer.beats for peer in self.peers.values())
                stuck = [r for r, peer in self.peers.items() if peer.beats == slowest]
                phase = _PHASES[slowest % 2]
                self._end(self._describe(stuck, f"has made no progress for {self.timeout:g} s, {phase}"))

    def _describe(self, ranks: list[int], what: str) -> str:
        names = ", ".join(f"rank {r} on {self.peers[r].host}" for r in ranks)
        return f"{names} {what} (step {min(self.peers[r].beats for r in ranks) // 2 + 1} of this launch)"

    def _end(self, reason: str) -> None:
        print(
            f"error: {reason}. This process ends too; run the same command again to resume from the newest checkpoint.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)  # the training thread may be blocked in a collective that nothing else interrupts
