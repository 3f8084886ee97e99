"""The training loop. `parts_of` makes the views of a step, and `forward_backward` calls the method's forward."""

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from spd_weights.errors import SpdError

from .checkpoint import checkpoint_due, save_run
from .config import Config
from .data.loader import Batch, Crops, make_loader
from .distributed import broadcast
from .export import export_run, finished_export
from .methods import after_step
from .monitor.agreement import Agreed, agree
from .monitor.guard import MAXIMUM_FACTOR, CollapseAlarm, LossGuard
from .monitor.heartbeat import Heartbeat
from .monitor.log import StepLog
from .monitor.stopping import Stopped, StopRequest
from .monitor.validation import open_validation, probe_due, validate
from .optim import set_learning_rate
from .recipes import Adapt, Linear, MoCo, Supervised
from .run import Run
from .setup import begin
from .views.views import ViewMaker


def pretrain(config: Config) -> Path:
    """Run a recipe to its end, from scratch or from where it was interrupted.

    Args:
        config: the resolved recipe.

    Returns:
        The export's folder.

    Raises:
        SpdError: something cannot be used (see `begin`), too many images are unreadable, the run diverged or
            collapsed, the disk is full, or another process was lost.
        Stopped: a signal or the time limit ended it early; its state is saved.
    """
    if (export := finished_export(config)) and config.resume == "auto":
        return export
    with StopRequest(config.max_hours) as stop:
        run = begin(config)
        heart = Heartbeat(60 * config.timeout_minutes)
        try:
            train(run, stop, heart)
        except RuntimeError as error:
            if lost := heart.lost_processes():
                raise SpdError(f"{lost}; run the same command again to resume from the newest checkpoint") from error
            raise
        finally:
            heart.stop()
    export = export_run(run)
    run.accelerator.end_training()
    return export


def train(run: Run, stop: StopRequest, heart: Heartbeat) -> None:
    """Take the remaining steps; raises as `pretrain`."""
    config, device = run.config, run.accelerator.device
    make_views = ViewMaker(config, run.mean, run.std, device)
    loader = make_loader(Crops(run.images, config), run.schedule, run.first_step, run.steps, config.data.workers)
    guard, alarm = LossGuard(run.method, run.progress, _maximum_factor(config)), _collapse_alarm(run)
    validation = open_validation(run)
    run.wrapped.train()
    with StepLog(run) as log:
        steps = ((batch, parts_of(batch, make_views)) for batch in log.clock.watch(loader))
        ahead = next(steps, None)
        heart.beat()
        for step in range(run.first_step, run.steps):
            done, (batch, parts) = step + 1, ahead
            guard.before_step()
            torch.manual_seed(config.seed + step)  # for dropout and the like, so that resuming has nothing to restore

            lr = set_learning_rate(run.optimizer, config.optim, step, run.schedule.steps_per_epoch)
            out = forward_backward(run, parts)
            wait_for_agreement = agree(run, out["loss"], batch, stop)
            heart.beat()
            ahead = next(steps, None)  # a GPU makes the next views while the CPU reads how this step went
            heart.beat()
            agreed = wait_for_agreement()
            if guard.accepts(agreed.loss, agreed.gradient_norm):
                run.optimizer.step()
                after_step(run.method, out)
            run.optimizer.zero_grad()

            if agreed.bad:
                _report_bad_images(run, batch, log)
            metrics = log.record(done, lr, out, agreed, guard)
            if metrics and alarm:
                alarm.check(metrics)
            if probe_due(run, done):
                validate(run, validation, done, log)
            end = _reason_to_end(run, done, guard, alarm, agreed)
            if end or checkpoint_due(run, done, agreed.save_is_cheap):
                run.progress["seconds"] += log.clock.lap()
                save_run(run, done)
            if end:
                raise end


def parts_of(batch: Batch, make_views: ViewMaker) -> Iterator[dict[str, Tensor]]:
    """The views of each of the --optim.accumulate parts of a batch.

    Those of the first part are made now, the others when they are needed, to save memory.
    """
    first, *others = batch.split(make_views.config.optim.accumulate)
    return itertools.chain([make_views(first)], map(make_views, others))


def forward_backward(run: Run, parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Compute a batch's gradients.

    Args:
        run: the run; gradients are added to those of its method's parameters.
        parts: the views of each part of this process's share of the step, from `parts_of`.

    Returns:
        What the method returned, and `loss`, the sum that was minimised: scalars averaged over the parts, embeddings
        of all parts.

    Raises:
        SpdError: the GPU has too little memory.
    """
    accelerator, weight, count, outputs = run.accelerator, run.config.spd.weight, run.config.optim.accumulate, []
    try:
        for number, views in enumerate(parts, 1):
            with nullcontext() if number == count else accelerator.no_sync(run.wrapped):
                out = run.wrapped(views)
                loss = out["loss_base"]
                if weight > 0:
                    loss = loss + weight * out["loss_spd"]
                accelerator.backward(loss / count)
            outputs.append({name: value.detach() for name, value in (out | {"loss": loss}).items()})
    except torch.OutOfMemoryError as error:
        raise SpdError(
            f"{run.schedule.images_per_process // count} images in one pass do not fit on the GPU: add "
            "--model.checkpointing or --precision bf16, use more GPUs, or lower --optim.batch-size"
        ) from error
    values = {name: [output[name] for output in outputs] for name in outputs[0]}
    return {name: torch.cat(v) if v[0].ndim else torch.stack(v).mean() for name, v in values.items()}


def _maximum_factor(config: Config) -> float:
    """How many times the usual loss rejects a step. A linear classifier recovers from any: its problem is convex.

    At the official learning rate of 30, its first steps on some features have losses of thousands.
    """
    return math.inf if isinstance(config, Linear) else MAXIMUM_FACTOR


def _collapse_alarm(run: Run) -> CollapseAlarm | None:
    """None for methods that cannot collapse, because labels or the starting weights keep their features apart."""
    config = run.config
    if isinstance(config, (Supervised, Adapt)):
        return None
    steps_per_queue = config.moco.queue_size // config.optim.batch_size if isinstance(config, MoCo) else 0
    return CollapseAlarm(run.schedule.images_per_process, steps_per_queue, run.progress)


def _report_bad_images(run: Run, batch: Batch, log: StepLog) -> None:
    """Name each image that some process could not read, once; raise SpdError if there are too many."""
    known, limit = run.progress["bad"], run.config.data.max_bad_fraction
    mine = {str(index): reason for index, reason in batch.bad.items()}  # JSON keys are strings
    for source in range(run.accelerator.num_processes):
        for index, reason in broadcast(mine, run.accelerator.device, source).items():
            if index not in known:
                known[index] = reason
                log.message(f"skipped an unreadable image: {reason}")
    if len(known) > limit * len(run.images):
        raise SpdError(
            f"{len(known)} of the {len(run.images)} images in {run.config.data.train} could not be read, more than "
            f"--data.max-bad-fraction {limit:g} allows; the last: {list(known.values())[-1]}"
        )


def _reason_to_end(
    run: Run, done: int, guard: LossGuard, alarm: CollapseAlarm | None, agreed: Agreed
) -> SpdError | Stopped | None:
    """The exception with which to end after this step, once its state is saved; None to continue."""
    where = f"saved in {run.config.out / 'checkpoints'} after step {done} of {run.steps}"
    if guard.diverged:
        return SpdError(
            f"{guard.state['in_a_row']} steps in a row had a loss or gradient that is not finite, or a loss more than "
            f"10 times the usual one: lower --optim.lr, or use --precision bf16 instead of fp16. The weights from "
            f"before these steps are {where}."
        )
    if alarm and alarm.triggered and run.config.on_collapse == "stop":
        std, rank = (run.progress["metrics"][name] for name in ("feature_std", "effective_rank"))
        return SpdError(
            f"the embeddings have collapsed: feature_std {std:.2f}, effective_rank {rank:.1f}. SimSiam does that with "
            f"small batches, high learning rates or weak augmentation: change these, or use moco or simclr. "
            f"The run is {where}; add --on-collapse continue to resume it anyway."
        )
    if agreed.stopping and done < run.steps:
        reason, code = agreed.stopping
        return Stopped(f"stopped by {reason}; {where}. Run the same command again to resume.", code)
    return None
