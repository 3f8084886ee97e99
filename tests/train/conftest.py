"""One thread, here as in the processes that tests start: the order of sums depends on how many there are."""

import torch

torch.set_num_threads(1)
