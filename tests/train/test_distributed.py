"""Losses that look across processes, against one process that sees everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.helpers import ROOT
from train.methods.simclr import nt_xent

_WORKER = """
import json, sys, torch, torch.distributed as dist
from train.methods.simclr import nt_xent
dist.init_process_group("gloo")
rank, data = dist.get_rank(), torch.load(sys.argv[1], weights_only=True)
weight = data["weight"].requires_grad_()
z1, z2 = (data[name].chunk(2)[rank] @ weight for name in ("x1", "x2"))
loss = nt_xent(z1, z2, 0.3)
loss.backward()
dist.all_reduce(weight.grad)  # what DDP does with a parameter's gradient
total = loss.detach().clone()
dist.all_reduce(total)
if rank == 0:
    print(json.dumps({"loss": (total / 2).item(), "grad": (weight.grad / 2).tolist()}))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_nt_xent_over_two_processes_has_the_loss_and_gradient_of_one(tmp_path: Path):
    torch.manual_seed(0)
    data = {"x1": torch.randn(6, 5), "x2": torch.randn(6, 5), "weight": torch.randn(5, 4)}
    torch.save(data, tmp_path / "data.pt")
    (tmp_path / "worker.py").write_text(_WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path / "data.pt")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout.strip().splitlines()[-1])
    weight = data["weight"].requires_grad_()
    loss = nt_xent(data["x1"] @ weight, data["x2"] @ weight, 0.3)
    loss.backward()
    assert two["loss"] == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(torch.tensor(two["grad"]), weight.grad, atol=1e-5, rtol=1e-4)
