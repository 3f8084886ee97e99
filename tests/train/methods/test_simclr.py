"""SimCLR and NT-Xent against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.train.methods.helpers import COSINE, backbone, views
from train.methods.simclr import SimCLRMethod, nt_xent
from train.recipes import SimCLRConfig


def test_nt_xent_is_the_sum_over_pairs():
    z1, z2 = (torch.randn(5, 6, dtype=torch.double, requires_grad=True) for _ in range(2))
    z = [F.normalize(row, dim=0) for row in (*z1, *z2)]
    expected = torch.zeros((), dtype=torch.double)
    for i in range(10):
        partner = (i + 5) % 10
        others = sum(torch.exp(z[i] @ z[k] / 0.3) for k in range(10) if k != i)
        expected = expected - torch.log(torch.exp(z[i] @ z[partner] / 0.3) / others) / 10
    ours = nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(expected, (z1, z2)), strict=True):
        torch.testing.assert_close(a, b)


def test_nt_xent_of_equal_views_is_chance():
    same = torch.ones(7, 3)
    assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(13))


def test_simclr_is_nt_xent_of_one_joint_pass():
    method = SimCLRMethod(*backbone(), SimCLRConfig(projector_dim=8), COSINE).train()
    batch = views("anchor", "second")
    z = method.projector(method.backbone(torch.cat([batch["anchor"], batch["second"]])))
    torch.testing.assert_close(method(batch)["loss_base"], nt_xent(*z.chunk(2), 0.1))
    assert [type(m).__name__ for m in method.projector][::3] == ["Linear"] * 3
    assert isinstance(method.projector[-1], nn.BatchNorm1d)
