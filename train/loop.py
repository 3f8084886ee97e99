"""The training loop. From here a step is two hops deep: the views, and the method's forward."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spd_weights.errors import SpdError

from . import checkpoint
from .config import Config
from .data.loader import Batch, Crops, make_loader
from .distributed import share
from .export import export_run, finished_export
from .monitor.guard import CollapseAlarm, LossGuard
from .monitor.heartbeat import Heartbeat
from .monitor.metrics import Bar, Clock, MetricsLog, effective_rank, feature_std, gpu_memory, to_floats
from .monitor.stopping import Stopped, StopRequest, verdict
from .monitor.validate import open_validation, validate
from .optim import set_learning_rate
from .recipes import Adapt, MoCo, Supervised, recipe_name
from .setup import Run, begin
from .views.views import ViewMaker

_LEAST_INTERVAL = 100  # times a save's own duration, between the ends of epochs at which one is made


def pretrain(config: Config) -> Path:
    """Run a recipe to its end, from scratch or from where it was interrupted.

    Args:
        config: the resolved recipe.

    Returns:
        The export's folder.

    Raises:
        SpdError: something is not usable (see `begin`), too many images are unreadable, the loss stays
            no number, the disk is full, or another process is lost.
        Stopped: a signal or the time limit ended it early, its state saved.
    """
    if (export := finished_export(config)) and config.resume == "auto":
        return export
    with StopRequest(config.max_hours) as stop:
        run = begin(config)
        heart = Heartbeat(60 * config.timeout_minutes)
        try:
            train(run, stop, heart)
        except RuntimeError as error:
            if lost := heart.gone():
                raise SpdError(f"{lost}; the same command goes on from the newest checkpoint") from error
            raise
        finally:
            heart.stop()
    export = export_run(run)
    run.accelerator.end_training()
    return export


def train(run: Run, stop: StopRequest, heart: Heartbeat) -> None:
    """Take the steps that are left; raises as `pretrain`."""
    config, accelerator = run.config, run.accelerator
    make_views = ViewMaker(config, run.mean, run.std, accelerator.device)
    loader = make_loader(Crops(run.images, config), run.schedule, run.start, run.steps, config.data.workers)
    track = None if config.tracker == "none" else accelerator.log
    log = MetricsLog(config.out / "metrics.jsonl", run.start, track) if accelerator.is_main_process else None
    clock, guard = Clock(config.optim.batch_size), LossGuard(run.method, run.progress)
    steps_a_queue = config.moco.queue_size // config.optim.batch_size if isinstance(config, MoCo) else 0
    alarm = CollapseAlarm(run.schedule.share // config.optim.accumulate, steps_a_queue, run.progress)
    validation = open_validation(run)
    run.wrapped.train()
    with Bar(_title(config), run.start, run.steps, accelerator.is_main_process) as bar:
        for step, batch in enumerate(clock.watch(loader), run.start):
            done = step + 1
            heart.beat()
            lr = set_learning_rate(run.optimizer, config.optim, step, run.schedule.steps_per_epoch)
            torch.manual_seed(config.seed + step)  # for dropout and the like: a resume has nothing to restore

            guard.before_step()
            out = forward_backward(run, make_views, batch)
            agreed = _agree(run, out["loss"], batch, stop)
            if agreed.bad:
                _report_bad_images(batch, run, bar)
            if guard.accepts(agreed.loss, agreed.gradient_norm):
                run.optimizer.step()
            else:
                bar.message(
                    f"step {done} is skipped: loss {agreed.loss:g}, norm of the gradient {agreed.gradient_norm:g}"
                )
            run.optimizer.zero_grad()

            metrics = None
            if done % config.log_every == 0 or done == run.steps:
                metrics = _measure(run, done, out, lr) | clock.read() | gpu_memory()
                metrics |= {"gradient_norm": agreed.gradient_norm, "skipped_steps": guard.state["skipped"]}
                run.progress["metrics"] = metrics
                if not isinstance(config, (Supervised, Adapt)):
                    alarm.check(metrics)
                if log:
                    log.write(**metrics)
            bar.advance(done, metrics)
            if _probe_due(done, run):
                measured = validate(run, validation)
                bar.message(f"step {done}: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
                if log:
                    log.write(step=done, **measured)
            collapsed = alarm.sounding and config.on_collapse == "stop"
            ending = agreed.stopping or guard.hopeless or collapsed
            if ending or _checkpoint_due(done, run, agreed.save_is_cheap):
                run.progress["seconds"] += clock.lap()
                _save(run, done)
            _end_early(run, done, guard.hopeless, collapsed, agreed.stopping)
            heart.beat()


def forward_backward(run: Run, make_views: ViewMaker, batch: Batch) -> dict[str, Tensor]:
    """Leave the batch's gradients in the parameters; returns what the method gave for its last part, and `loss`."""
    accelerator, weight = run.accelerator, run.config.spd.weight
    parts = batch.split(run.config.optim.accumulate)
    for part in parts:
        with nullcontext() if part is parts[-1] else accelerator.no_sync(run.wrapped):
            out = run.wrapped(make_views(part))
            loss = out["loss_base"]
            if weight > 0:
                loss = loss + weight * out["loss_spd"]
            accelerator.backward(loss / len(parts))
    return out | {"loss": loss}


class Agreed(NamedTuple):
    """What all processes know alike after a step's gradients."""

    loss: float
    gradient_norm: float
    stopping: tuple[str, int] | None
    """Why one of them was told to stop, and the exit code."""
    save_is_cheap: bool
    """Saving would cost less than 1 % of the time since the last save."""
    bad: bool
    """One of them met an image that it could not read."""


@torch.no_grad()
def _agree(run: Run, loss: Tensor, batch: Batch, stop: StopRequest) -> Agreed:
    """One small reduction, read at once: what follows has to be decided alike everywhere."""
    accelerator = run.accelerator
    gradients = [p.grad for p in run.method.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).float()
    if accelerator.scaler is not None:  # fp16: gradients that overflow are its own business
        norm = torch.zeros_like(norm)
    expensive = time.monotonic() - run.saved_at < _LEAST_INTERVAL * run.save_seconds  # of the process that saves
    votes = torch.tensor([*stop.votes(), float(expensive), float(bool(batch.bad))], device=loss.device)
    everyones = accelerator.reduce(torch.cat([loss.detach().float()[None], norm[None], votes]), "mean")
    loss_mean, gradient_norm, *votes, expensive, bad = everyones.tolist()
    return Agreed(loss_mean, gradient_norm, verdict(votes), not expensive, bool(bad))


def _end_early(run: Run, done: int, hopeless: bool, collapsed: bool, stopping: tuple[str, int] | None) -> None:
    """Raise, if this is where the run has to end; its state was saved."""
    where = f"saved in {run.config.out / 'checkpoints'} after step {done} of {run.steps}"
    if hopeless:
        raise SpdError(
            f"{run.progress['guard']['in_a_row']} steps in a row had a loss or gradient that is no number, or 10 "
            f"times the usual one: lower --optim.lr, or use --precision bf16 instead of fp16. The weights from before "
            f"them are {where}."
        )
    if collapsed:
        std, rank = (run.progress["metrics"][name] for name in ("feature_std", "effective_rank"))
        raise SpdError(
            f"the embeddings have collapsed: feature_std {std:.2f}, effective_rank {rank:.1f}. SimSiam does that with "
            f"small batches, high learning rates or weak augmentation: change them, or take moco or simclr. "
            f"The run is {where}; --on-collapse continue goes on."
        )
    if stopping and done < run.steps:
        reason, code = stopping
        raise Stopped(f"stopped by {reason}; {where}. The same command goes on.", code)


def _measure(run: Run, done: int, out: dict[str, Tensor], lr: float) -> dict[str, Any]:
    """The step's numbers, averaged over processes; of the batch's last part, where it has several."""
    scalars = {"loss": out["loss"].detach(), "loss_base": out["loss_base"].detach()}
    if "loss_spd" in out:
        scalars |= {"loss_spd": out["loss_spd"].detach(), "spd_accuracy": out["spd_accuracy"]}
    scalars |= {"feature_std": feature_std(out["features"]), "effective_rank": effective_rank(out["features"])}
    values = to_floats(run.accelerator.reduce(scalars, "mean"))
    names = ("loss", "loss_base", "loss_spd", "spd_accuracy", "feature_std", "effective_rank")
    return {
        "step": done,
        "epoch": done / run.schedule.steps_per_epoch,
        **{name: values.get(name) for name in names},
        "lr": lr,
    }


def _report_bad_images(batch: Batch, run: Run, bar: Bar) -> None:
    """Name each image that any process could not read, once; stop when there are too many."""
    known, limit = run.progress["bad"], run.config.data.max_bad_fraction
    mine = {str(index): reason for index, reason in batch.bad.items()}  # as in JSON
    for source in range(run.accelerator.num_processes):
        for index, reason in share(mine, run.accelerator.device, source).items():
            if index in known:
                continue
            known[index] = reason
            bar.message(f"skipped an unreadable image: {reason}")
    if len(known) > limit * len(run.images):
        raise SpdError(
            f"{len(known)} of the {len(run.images)} images in {run.config.data.train} could not be read, more than "
            f"--data.max-bad-fraction {limit:g} allows; the last: {list(known.values())[-1]}"
        )


def _checkpoint_due(done: int, run: Run, save_is_cheap: bool) -> bool:
    asked, epochs = run.config.checkpoint, done / run.schedule.steps_per_epoch
    return (
        done == run.steps
        or (asked.every is not None and done % asked.every == 0)
        or (asked.milestone_epochs is not None and epochs % asked.milestone_epochs == 0)
        or (save_is_cheap and epochs.is_integer())
    )


def _probe_due(done: int, run: Run) -> bool:
    if run.config.data.val is None and run.config.probe.anomaly is None:
        return False
    epoch, rest = divmod(done, run.schedule.steps_per_epoch)
    return done == run.steps or (rest == 0 and epoch % run.config.probe.every == 0)


def _save(run: Run, done: int) -> None:
    """Save on the first process; where that fails, end on all of them."""
    failure, config, begun = "", run.config, time.monotonic()
    if run.accelerator.scaler is not None:
        run.progress["scaler"] = run.accelerator.scaler.state_dict()
    if run.accelerator.is_main_process:
        state = checkpoint.Checkpoint(done, run.method.state_dict(), run.optimizer.state_dict(), run.progress)
        milestones = config.checkpoint.milestone_epochs
        try:
            checkpoint.save(
                config.out / "checkpoints",
                state,
                config.checkpoint.keep,
                milestones and milestones * run.schedule.steps_per_epoch,
            )
        except SpdError as error:
            failure = str(error)
        run.saved_at = time.monotonic()
        run.save_seconds = run.saved_at - begun
    failed = torch.tensor(float(bool(failure)), device=run.accelerator.device)
    if run.accelerator.reduce(failed, "sum").item():
        raise SpdError(failure or "the first process could not save")


def _title(config: Config) -> str:
    spd = f" + SPD {config.spd.weight:g}" if config.spd.weight > 0 else ""
    return f"{recipe_name(config)}{spd}"
