"""The numbers that describe a training step: losses, the spread of embeddings, GPU memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..run import Run


def feature_std(features: Tensor) -> Tensor:
    """Spread of embeddings: near 1 if their directions are spread evenly, 0 if the network has collapsed.

    The standard deviation over the batch of the L2-normalised embeddings, averaged over dimensions and
    multiplied by sqrt(D). (SimSiam, Fig. 2, plots it against 1/sqrt(D).)

    Args:
        features: (B, D).
    """
    return F.normalize(features.float()).std(0).mean() * features.shape[1] ** 0.5


def effective_rank(features: Tensor) -> Tensor:
    """Number of directions in which embeddings vary: exp of the spectral entropy (Roy & Vetterli, 2007).

    A batch norm without scale at the end of the projector, as in SimSiam, keeps `feature_std` high even if
    all embeddings lie on one line. The effective rank reveals that.

    Args:
        features: (B, D); normalised and centred here.

    Returns:
        A scalar from 1 (one direction, or none) to min(B - 1, D).
    """
    unit = F.normalize(features.float().nan_to_num())
    unit = unit - unit.mean(0)
    variances = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0)
    return torch.special.entr(variances / variances.sum().clamp(min=1e-12)).sum().exp()


def step_metrics(run: Run, done: int, lr: float, out: dict[str, Tensor]) -> dict[str, Any]:
    """The step's losses and embedding statistics, averaged over processes; call it on every process.

    Args:
        run: the run.
        done: steps completed, this one included.
        lr: scheduled learning rate of the step.
        out: from `forward_backward`.
    """
    scalars = {name: out[name].detach() for name in ("loss", "loss_base", "loss_spd", "spd_accuracy") if name in out}
    scalars |= {"feature_std": feature_std(out["features"]), "effective_rank": effective_rank(out["features"])}
    averaged = run.accelerator.reduce(scalars, "mean")
    # One transfer from the device for all of them.
    values = dict(zip(averaged, torch.stack([v.float() for v in averaged.values()]).tolist(), strict=True))
    names = ("loss", "loss_base", "loss_spd", "spd_accuracy", "feature_std", "effective_rank")
    return {
        "step": done,
        "epoch": done / run.schedule.steps_per_epoch,
        **{name: values.get(name) for name in names},
        "lr": lr,
    }


def gpu_memory() -> dict[str, float]:
    """`gpu_memory_gib`, the peak memory of this process's tensors; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}
