"""Counting the calls that a GPU would get, without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CallCounter(TorchDispatchMode):
    """Counts operator calls on tensors of one device type, except those that only make views of memory.

    On the device "meta" nothing is computed and no value can be read: code that waits for its device raises there.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.calls = device, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
        tensors += [x for some in args if isinstance(some, (list, tuple)) for x in some if isinstance(x, torch.Tensor)]
        if not function.is_view and any(tensor.device.type == self.device for tensor in tensors):
            self.calls += 1
        return result
