"""metrics.jsonl, and the log of a training step that feeds it, the progress bar and the tracker."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from spd_weights.errors import SpdError
from spd_weights.files import write_text

from ..recipes import recipe_name
from ..run import Run
from .agreement import Agreed
from .guard import LossGuard
from .metrics import gpu_memory, step_metrics
from .progress import Clock, ProgressBar


class MetricsLog:
    """metrics.jsonl: one line per logged step, in order, without repeats after a resume."""

    def __init__(self, path: Path, first_step: int, track: Callable[..., None] | None = None) -> None:
        """Open the log and drop the lines of steps that will be repeated.

        Args:
            path: the file; created if absent.
            first_step: lines of later steps are dropped.
            track: called with the numbers of each line and `step`, to send them to a tracker as well.

        Raises:
            SpdError: the file cannot be written.
        """
        self.path, self.track, kept = path, track, []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= first_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):  # a line that a crash cut short
                    continue
        with self._explained():
            write_text(path, "".join(kept))
            self.file = path.open("a")

    def write(self, **values: Any) -> None:
        """Append a line and flush it, for `tail -f` and in case of a crash. NaN and infinity become null.

        Raises:
            SpdError: the file cannot be written.
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
                f"{self.path} cannot be written: {error.strerror}. Fix that, then run the same command again to "
                f"resume from the newest checkpoint."
            ) from error


class StepLog:
    """Everything that is reported of a step. Use it as a context manager; it shows the progress bar inside."""

    def __init__(self, run: Run) -> None:
        """Open metrics.jsonl (first process only) and start the clock; raises as `MetricsLog`."""
        self.run, config, main = run, run.config, run.accelerator.is_main_process
        spd = f" + SPD {config.spd.weight:g}" if config.spd.weight > 0 else ""
        track = None if config.tracker == "none" else run.accelerator.log
        self.bar = ProgressBar(f"{recipe_name(config)}{spd}", run.first_step, run.steps, main)
        self.file = MetricsLog(config.out / "metrics.jsonl", run.first_step, track) if main else None
        self.clock = Clock(config.optim.batch_size)

    def __enter__(self) -> "StepLog":
        """Show the progress bar."""
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal and close metrics.jsonl."""
        self.bar.__exit__(kind, error, trace)
        if self.file:
            self.file.file.close()

    def record(
        self, done: int, lr: float, out: dict[str, Tensor], agreed: Agreed, guard: LossGuard
    ) -> dict[str, Any] | None:
        """Advance the bar and, every --log-every steps and at the end, log a step; call it on every process.

        Args:
            done: steps completed, this one included.
            lr: scheduled learning rate of the step.
            out: from `forward_backward`.
            agreed: loss and gradient norm over all processes.
            guard: the guard, after it judged the step.

        Returns:
            The logged metrics, or None if this step is not logged.
        """
        self.clock.count_step()
        if not guard.accepted:
            self.message(f"skipped step {done}: loss {agreed.loss:g}, gradient norm {agreed.gradient_norm:g}")
        metrics = None
        if done % self.run.config.log_every == 0 or done == self.run.steps:
            metrics = step_metrics(self.run, done, lr, out) | self.clock.read() | gpu_memory()
            metrics |= {"gradient_norm": agreed.gradient_norm, "skipped_steps": guard.state["skipped"]}
            self.run.progress["metrics"] = metrics
            self.write(**metrics)
        self.bar.advance(done, metrics)
        return metrics

    def write(self, **values: Any) -> None:
        """Append a line to metrics.jsonl, on the first process."""
        if self.file:
            self.file.write(**values)

    def message(self, text: str) -> None:
        """Print a line above the progress bar, on the first process."""
        self.bar.message(text)
