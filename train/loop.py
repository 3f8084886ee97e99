"""The training loop. From here a step is two hops deep: the views, and the method's forward."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spd_weights.errors import SpdError
from train import checkpoint
from train.config import Config, recipe_name
from train.data import Batch, Crops, make_loader
from train.monitors import Bar, Clock, MetricsLog, feature_std, to_floats
from train.optim import set_learning_rate
from train.record import export_run, finished_export
from train.setup import Run, begin
from train.validate import open_validation, validate
from train.views import ViewMaker


def pretrain(config: Config) -> Path:
    """Run a recipe to its end, from scratch or from where it was interrupted.

    Args:
        config: the resolved recipe.

    Returns:
        The export's folder.

    Raises:
        SpdError: something is not usable (see `begin`), too many images are unreadable, or the loss is
            no longer a number.
    """
    if (export := finished_export(config)) and config.resume == "auto":
        return export
    run = begin(config)
    accelerator, optimizer = run.accelerator, run.optimizer
    make_views = ViewMaker(config, run.mean, run.std, accelerator.device)
    loader = make_loader(Crops(run.images, config), run.schedule, run.start, run.steps, config.data.workers)
    log = MetricsLog(config.out / "metrics.jsonl", run.start) if accelerator.is_main_process else None
    clock = Clock(config.optim.batch_size)
    validation = open_validation(config, run.images)
    run.wrapped.train()
    with Bar(_title(config), run.start, run.steps, accelerator.is_main_process) as bar:
        for step, batch in enumerate(clock.watch(loader), run.start):
            _report_bad_images(batch, run, bar)
            lr = set_learning_rate(optimizer, config.optim, step, run.schedule.steps_per_epoch)
            torch.manual_seed(config.seed + step)  # for dropout and the like: a resume has nothing to restore

            parts = batch.split(config.optim.accumulate)
            for part in parts:
                with nullcontext() if part is parts[-1] else accelerator.no_sync(run.wrapped):
                    out = run.wrapped(make_views(part))
                    loss = out["loss_base"]
                    if config.spd.weight > 0:
                        loss = loss + config.spd.weight * out["loss_spd"]
                    accelerator.backward(loss / len(parts))
            optimizer.step()
            optimizer.zero_grad()

            done = step + 1
            metrics = None
            if done % config.log_every == 0 or done == run.steps:
                metrics = _measure(run, done, loss, out, lr) | clock.read()
                run.progress["metrics"] = metrics
                if log:
                    log.write(**metrics)
            bar.advance(done, metrics)
            if validation and _epoch_ends(done, run):
                accuracy = validate(run, validation)
                bar.message(f"epoch {done // run.schedule.steps_per_epoch}: {accuracy}")
                if log:
                    log.write(step=done, **accuracy)
            if _checkpoint_due(done, run):
                run.progress["seconds"] += clock.lap()
                _save(run, done)
    return export_run(run)


def _measure(run: Run, done: int, loss: Tensor, out: dict[str, Tensor], lr: float) -> dict[str, Any]:
    """The step's numbers, averaged over processes; of the batch's last part, where it has several.

    Reading them waits for the device, so it is not done at every step.
    """
    scalars = {"loss": loss.detach(), "loss_base": out["loss_base"].detach()}
    if "loss_spd" in out:
        scalars |= {"loss_spd": out["loss_spd"].detach(), "spd_accuracy": out["spd_accuracy"]}
    scalars["feature_std"] = feature_std(out["features"])
    values = to_floats(run.accelerator.reduce(scalars, "mean"))
    if not math.isfinite(values["loss"]):
        raise SpdError(
            f"the loss became {values['loss']} by step {done}: lower --optim.lr, or use --precision bf16 instead of "
            f"fp16. The checkpoints in {run.config.out / 'checkpoints'} are from before."
        )
    names = ("loss", "loss_base", "loss_spd", "spd_accuracy")
    return {
        "step": done,
        "epoch": done / run.schedule.steps_per_epoch,
        **{name: values.get(name) for name in names},
        "lr": lr,
        "feature_std": values["feature_std"],
    }


def _report_bad_images(batch: Batch, run: Run, bar: Bar) -> None:
    """Name each unreadable image once; stop when there are too many."""
    known, limit = run.progress["bad"], run.config.data.max_bad_fraction
    for index, reason in batch.bad.items():
        if str(index) not in known:  # JSON's keys are strings
            known[str(index)] = reason
            bar.message(f"skipped an unreadable image: {reason}")
    if len(known) > limit * len(run.images):
        raise SpdError(
            f"{len(known)} of the {len(run.images)} images in {run.config.data.train} could not be read, more than "
            f"--data.max-bad-fraction {limit:g} allows; the last: {list(known.values())[-1]}"
        )


def _checkpoint_due(done: int, run: Run) -> bool:
    every = run.config.checkpoint.every
    return _epoch_ends(done, run) or (every is not None and done % every == 0)


def _epoch_ends(done: int, run: Run) -> bool:
    return done % run.schedule.steps_per_epoch == 0 or done == run.steps


def _save(run: Run, done: int) -> None:
    if run.accelerator.is_main_process:
        state = checkpoint.Checkpoint(done, run.method.state_dict(), run.optimizer.state_dict(), run.progress)
        checkpoint.save(run.config.out / "checkpoints", state, run.config.checkpoint.keep)
    run.accelerator.wait_for_everyone()


def _title(config: Config) -> str:
    spd = f" + SPD {config.spd.weight:g}" if config.spd.weight > 0 else ""
    return f"{recipe_name(config)}{spd}"
