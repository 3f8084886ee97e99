"""Watching a run: the progress bar on the terminal, metrics.jsonl beside it, and the clock behind both."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from spd_weights.errors import SpdError
from spd_weights.files import write_text

T = TypeVar("T")


def feature_std(features: Tensor) -> Tensor:
    """Spread of embeddings: 1 for directions spread evenly, 0 for a collapsed network.

    The standard deviation over the batch of L2-normalised embeddings, averaged over dimensions, times
    sqrt(D) (SimSiam, Fig. 2, plots it against 1/sqrt(D)).

    Args:
        features: (B, D).
    """
    return F.normalize(features.float()).std(0).mean() * features.shape[1] ** 0.5


def effective_rank(features: Tensor) -> Tensor:
    """How many directions embeddings vary in: exp of the entropy of the covariance's spectrum (Roy & Vetterli, 2007).

    A batch norm without scale at the projector's end, as SimSiam has it, keeps `feature_std` up even
    where all embeddings lie on one line; their rank shows it.

    Args:
        features: (B, D); normalised and centred here.

    Returns:
        A scalar from 1 (one direction, or none) to min(B - 1, D).
    """
    unit = F.normalize(features.float().nan_to_num())
    unit = unit - unit.mean(0)
    variances = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0)
    return torch.special.entr(variances / variances.sum().clamp(min=1e-12)).sum().exp()


class MetricsLog:
    """metrics.jsonl: a line a logged step, in order, without repeats after a resume."""

    def __init__(self, path: Path, first_step: int, track: Callable[..., None] | None = None) -> None:
        """Open the log, dropping the lines of steps that will be taken again.

        Args:
            path: the file; made if absent.
            first_step: lines of later steps are dropped.
            track: called with the numbers of each line and `step`, to show them elsewhere, too.

        Raises:
            SpdError: it cannot be written.
        """
        self.path, self.track, kept = path, track, []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= first_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):  # the line that a crash cut short
                    continue
        with self._explained():
            write_text(path, "".join(kept))
            self.file = path.open("a")

    def write(self, **values: Any) -> None:
        """Append a line and flush it, so that `tail -f` and a crash both see it; NaN, which JSON has not, is null.

        Raises:
            SpdError: it cannot be written.
        """
        values = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        with self._explained():
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()
        if self.track:
            numbers = {name: v for name, v in values.items() if v is not None and name != "step"}
            self.track(numbers, step=values["step"])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpdError(
                f"{self.path} cannot be written: {error.strerror}. Mend that; the same command goes on from the "
                f"newest checkpoint."
            ) from error


class Bar:
    """A progress bar with loss, SPD accuracy and images/s; plain lines where the output is no terminal."""

    def __init__(self, title: str, start: int, total: int, shown: bool) -> None:
        """Prepare the bar; it appears on entering the context.

        Args:
            title: what is being trained.
            start: steps done before.
            total: steps of the whole run.
            shown: only one process shows it.
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

    def __enter__(self) -> "Bar":
        """Show the bar."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self.progress.stop()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def advance(self, step: int, metrics: dict[str, Any] | None) -> None:
        """Move to `step` steps done; show new metrics where there are any."""
        self.progress.update(self.task, completed=step)
        if metrics is None:
            return
        parts = [f"loss {metrics['loss']:.3f}"]
        if metrics["spd_accuracy"] is not None:
            parts.append(f"spd acc {metrics['spd_accuracy']:.2f}")
        parts.append(f"{metrics['images_per_second']:.0f} images/s")
        self.progress.update(self.task, numbers=" · ".join(parts))
        due = time.monotonic() - self.last > 15 or step == self.total
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
        """Hand the batches on, timing the wait for each."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            self.steps += 1
            yield batch

    def read(self) -> dict[str, float]:
        """`images_per_second` (all processes) and `data_wait_fraction` since the last reading."""
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


def gpu_memory() -> dict[str, float]:
    """`gpu_memory_gib`, the most that this process's tensors have held; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Bring scalars to Python in one transfer."""
    if not values:
        return {}
    return dict(zip(values, torch.stack([v.float() for v in values.values()]).tolist(), strict=True))
