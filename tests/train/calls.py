"""Counting the calls that a GPU would get, and the times that the CPU would wait for it, without a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from train.data.loader import Batch
from train.loop import forward_backward, parts_of
from train.methods import after_step
from train.monitor import agreement
from train.monitor.guard import LossGuard
from train.monitor.stopping import StopRequest
from train.run import Run
from train.views.views import ViewMaker


def take_step(run: Run, guard: LossGuard, make_views: ViewMaker, batch: Batch) -> None:
    """What the loop does in a step that is not logged, except reading the agreement."""
    guard.before_step()
    out = forward_backward(run, parts_of(batch, make_views))
    agreement.agree(run, out["loss"], batch, StopRequest(None))
    run.optimizer.step()
    after_step(run.method, out)
    run.optimizer.zero_grad()


class CallCounter(TorchDispatchMode):
    """Counts operator calls on tensors of one device type, except those that only make views of memory.

    `waits` counts blocking copies between the CPU and the device: a GPU first finishes all its work. On the device
    "meta" nothing is computed and no value can be read: code that asks for one raises there.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.calls, self.waits = device, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
        tensors += [x for some in args if isinstance(some, (list, tuple)) for x in some if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if not function.is_view and self.device in devices:
            self.calls += 1
        if function is torch.ops.aten._to_copy.default and len(devices) == 2:
            self.waits += not kwargs.get("non_blocking", False)
        if function is torch.ops.aten.copy_.default and len(devices) == 2:
            self.waits += not (args[2] if len(args) > 2 else (kwargs or {}).get("non_blocking", False))
        return result
