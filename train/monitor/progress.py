"""What a terminal shows of a run: the progress bar, and the clock behind its images/s."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

T = TypeVar("T")
_LINE_EVERY = 15.0  # seconds between lines when the output is not a terminal


class ProgressBar:
    """A progress bar with loss, SPD accuracy and images/s; plain lines if the output is not a terminal."""

    def __init__(self, title: str, start: int, total: int, shown: bool) -> None:
        """Prepare the bar; it appears on entering the context.

        Args:
            title: what is being trained.
            start: steps completed before.
            total: steps of the whole run.
            shown: False on all processes but one.
        """
        self.console = Console(file=sys.stderr, quiet=not shown, highlight=False)
        self.title, self.start, self.total, self.last = title, start, total, time.monotonic()
        self.progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(table_column=Column(ratio=1)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console, expand=True, disable=not (shown and self.console.is_terminal),
        )  # fmt: skip
        self.task = self.progress.add_task(title, total=total, completed=start, numbers="")

    def __enter__(self) -> "ProgressBar":
        """Show the bar."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        self.progress.stop()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def advance(self, step: int, metrics: dict[str, Any] | None) -> None:
        """Move to `step` completed steps and show new metrics, if given."""
        self.progress.update(self.task, completed=step)
        if metrics is None:
            return
        parts = [f"loss {metrics['loss']:.3f}"]
        if metrics["spd_accuracy"] is not None:
            parts.append(f"spd acc {metrics['spd_accuracy']:.2f}")
        parts.append(f"{metrics['images_per_second']:.0f} images/s")
        self.progress.update(self.task, numbers=" · ".join(parts))
        due = time.monotonic() - self.last > _LINE_EVERY or step == self.total
        if not self.console.is_terminal and due:
            self.last = time.monotonic()
            self.message(f"{self.title} step {step}/{self.total} · " + " · ".join(parts))


class Clock:
    """Throughput and the share of time spent waiting for data."""

    def __init__(self, images_per_step: int) -> None:
        """Start the clock.

        Args:
            images_per_step: over all processes.
        """
        self.images_per_step, self.steps, self.waited = images_per_step, 0, 0.0
        self.read_at = self.lapped_at = time.perf_counter()

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches and time the wait for each."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            yield batch

    def count_step(self) -> None:
        """Count a finished step; batches are taken ahead of their steps."""
        self.steps += 1

    def read(self) -> dict[str, float]:
        """`images_per_second` (over all processes) and `data_wait_fraction` since the last call."""
        now = time.perf_counter()
        elapsed = now - self.read_at
        numbers = {
            "images_per_second": self.steps * self.images_per_step / elapsed,
            "data_wait_fraction": self.waited / elapsed,
        }
        self.steps, self.waited, self.read_at = 0, 0.0, now
        return numbers

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        elapsed, self.lapped_at = now - self.lapped_at, now
        return elapsed
