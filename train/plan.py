"""`--plan`: estimate what a run takes from a few of its steps on the machines that it is launched on."""

import dataclasses
import math
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config
from .data.loader import Crops, Schedule, make_loader
from .loop import forward_backward, parts_of
from .recipes import recipe_name
from .run import Run
from .setup import begin
from .views.views import ViewMaker

_WARM_UP, _MEASURED = 2, 5


def plan(config: Config) -> str:
    """Take a few steps of the run on its real data, and extrapolate.

    Args:
        config: the resolved recipe; its `--out` folder is not touched.

    Returns:
        A table to print. Its figures come from these steps only: they exclude validation, probes and
        checkpoints, and a cold disk or a remote source may be slower at first.

    Raises:
        SpdError: as `train.setup.begin`.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = begin(dataclasses.replace(config, out=Path(folder) / config.out.name, tracker="none"))
        seconds, waited, passes = _measure(run)
        decoded = images_per_core_second(Crops(run.images, config), run.schedule)
    images = config.optim.batch_size / seconds
    wanted = run.schedule.images_per_process / (seconds * (1 - waited))
    processes, cores = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), len(os.sched_getaffinity(0))
    parameters = sum(p.numel() for p in run.method.backbone.parameters())
    trained = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    on_gpu = run.accelerator.device.type == "cuda"
    peak = (
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
        if on_gpu
        else f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB in the process"
    )
    state = sum(
        value.numel() * value.element_size()
        for entry in run.optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    )
    saved = sum(t.numel() * t.element_size() for t in run.method.state_dict().values()) + state
    rows: dict[str, Any] = {
        "run": f"{recipe_name(config)}, {config.model.arch}, {config.data.image_size} px, SPD {config.spd.weight:g}",
        "launch": f"{run.accelerator.num_processes} process(es), {run.accelerator.device.type}, "
        f"precision {config.precision}, {config.data.workers} data workers each",
        "parameters": f"{parameters / 1e6:.2f} M in the backbone, {trained / 1e6:.2f} M trained",
        "images": f"{len(run.images):,}, {run.schedule.steps_per_epoch:,} steps per epoch",
        "steps": f"{run.steps:,} of {config.optim.batch_size} images, "
        f"{run.schedule.images_per_process // config.optim.accumulate} per process and pass",
        "passes": f"{passes:.3g} encoder passes per image",
        "memory": f"peak {peak}; a checkpoint takes {saved / 2**20:.0f} MiB",
        "measured": f"{images:,.1f} images/s, {seconds:.3g} s per step, {100 * waited:.0f} % of it waiting for data",
        **data_rows(decoded, wanted, config.data.workers, processes, cores),
        "estimate": f"{run.steps * seconds / 3600:,.2f} h in total",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def images_per_core_second(crops: Crops, schedule: Schedule) -> float:
    """Measure how many images one core reads, decodes and crops per second, on up to 64 images of the first step."""
    keys = next(schedule.batches(0, 1))[:64]
    crops.__getitems__(keys[:1])  # opens the first shard
    started = time.process_time()
    crops.__getitems__(keys)
    return len(keys) / (time.process_time() - started)


def data_rows(decoded: float, wanted: float, workers: int, processes: int, cores: int) -> dict[str, str]:
    """Compare what a machine decodes with what its processes take.

    Args:
        decoded: images/s that one core decodes.
        wanted: images/s that one process takes if it never waits for data.
        workers: data workers of one process.
        processes: processes on this machine.
        cores: cores of this machine.

    Returns:
        Rows for the table.
    """
    fed = decoded * min(max(1, workers) * processes, cores)
    needed = wanted / decoded  # cores per process
    if wanted * processes <= fed:
        verdict = "enough"
    elif needed * processes <= cores:
        verdict = f"too little: set --data.workers {math.ceil(needed)}"
    else:
        command = f"python -m {__package__}.data.predecode"
        verdict = f"too little, with all cores as well: store the images as pixels ({command})"
    return {
        "decoding": f"{decoded:,.0f} images/s per core, {cores * decoded:,.0f} on the {cores} cores of this machine",
        "data": f"its {processes} process(es) take {wanted * processes:,.0f} images/s, the work of "
        f"{needed * processes:.2f} cores; their data workers feed {fed:,.0f}: {verdict}",
    }


def _measure(run: Run) -> tuple[float, float, float]:
    """Measure seconds per step, the share of them spent waiting for data, and encoder passes per image."""
    accelerator, counted = run.accelerator, [0]

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        counted[0] += len(inputs[0])

    # Count passes through every copy of the backbone: MoCo has a key encoder, adapt the starting weights.
    stem = next(name for name, module in run.method.backbone.named_modules() if name and not [*module.children()])
    copies = [
        m for m in run.method.children() if stem in dict(m.named_modules()) and type(m) is type(run.method.backbone)
    ]
    hooks = [copy.get_submodule(stem).register_forward_pre_hook(count) for copy in copies]
    make_views = ViewMaker(run.config, run.mean, run.std, accelerator.device)
    stop = min(_WARM_UP + _MEASURED, run.schedule.steps_per_epoch)
    warm_up = min(_WARM_UP, stop - 1)
    loader = iter(make_loader(Crops(run.images, run.config), run.schedule, 0, stop, run.config.data.workers))
    run.wrapped.train()
    started = previous = time.perf_counter()
    waited = 0.0
    for step in range(stop):
        if step == warm_up:
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            started, waited, counted[0] = time.perf_counter(), 0.0, 0
        previous = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - previous
        forward_backward(run, parts_of(batch, make_views))
        run.optimizer.step()
        run.optimizer.zero_grad()
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    elapsed, steps = time.perf_counter() - started, stop - warm_up
    for hook in hooks:
        hook.remove()
    return elapsed / steps, waited / elapsed, counted[0] / (steps * run.schedule.images_per_process)
