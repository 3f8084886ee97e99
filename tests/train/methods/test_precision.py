"""Losses keep full precision under autocast."""

import torch

from tests.train.methods.helpers import views
from tests.train.methods.test_moco import moco
from train.methods.simclr import nt_xent
from train.methods.spd import spd_loss


def test_losses_keep_full_precision_under_autocast():
    z = [torch.randn(5, 64) for _ in range(4)]
    z[2], z[3] = z[1] + 1e-4 * z[2], z[1] + 1e-4 * z[3]  # closer than bfloat16 can tell
    method = moco().eval()
    batch = views("anchor", "second")
    plain = nt_xent(z[0], z[1], 0.1), spd_loss(z[1], z[2], z[3])["loss_spd"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(z[0], z[1], 0.1), spd_loss(z[1], z[2], z[3])["loss_spd"]
        assert method(batch)["loss_base"].dtype == torch.float32
    assert plain == mixed
    assert plain[1] != 0
