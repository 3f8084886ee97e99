"""What methods compute across processes, against one process that sees everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.train.helpers import ROOT
from train.config import SpdConfig
from train.methods.moco import MoCoMethod
from train.methods.simclr import nt_xent
from train.recipes import MoCoConfig

_LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
_SHUFFLE = """
import sys, timm, torch, torch.distributed as dist
from train.config import SpdConfig
from train.methods.moco import MoCoMethod
from train.recipes import MoCoConfig
dist.init_process_group("gloo")
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=0)
method = MoCoMethod(model, model.num_features, MoCoConfig(dim=8, queue_size=16), SpdConfig(loss="cosine"), 8).train()
images = torch.randn(8, 3, 32, 32)
keys = method._encode_keys(images.chunk(2)[dist.get_rank()])
found = [torch.empty_like(keys) for _ in range(2)]
dist.all_gather(found, keys)
if dist.get_rank() == 0:
    torch.save({"keys": torch.cat(found), "images": images, "method": method.state_dict()}, sys.argv[1])
dist.destroy_process_group()
"""
_NT_XENT = """
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


def launch(folder: Path, program: str, argument: Path) -> str:
    """Run a program in two processes; returns what the first printed."""
    (folder / "worker.py").write_text(program)
    done = subprocess.run(
        [*_LAUNCH, str(folder / "worker.py"), str(argument)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mocos_keys_share_their_batch_norm_with_other_images_than_their_queries(tmp_path: Path):
    """ShuffleBN: a process holds the queries of images 0 to 3, but encodes the keys of 0, 2, 4 and 6 together."""
    launch(tmp_path, _SHUFFLE, tmp_path / "found.pt")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    backbone = timm.create_model("test_resnet", num_classes=0)
    config = MoCoConfig(dim=8, queue_size=16)
    method = MoCoMethod(backbone, backbone.num_features, config, SpdConfig(loss="cosine"), 8).train()
    method.load_state_dict(found["method"])
    expected = torch.empty(8, 8)
    for offset in range(2):
        with torch.no_grad():
            together = method.key_projector(method.key_backbone(found["images"][offset::2]))
        expected[offset::2] = F.normalize(together)
    torch.testing.assert_close(found["keys"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_nt_xent_over_two_processes_has_the_loss_and_gradient_of_one(tmp_path: Path):
    torch.manual_seed(0)
    data = {"x1": torch.randn(6, 5), "x2": torch.randn(6, 5), "weight": torch.randn(5, 4)}
    torch.save(data, tmp_path / "data.pt")
    said = launch(tmp_path, _NT_XENT, tmp_path / "data.pt")
    two = json.loads(said.strip().splitlines()[-1])
    weight = data["weight"].requires_grad_()
    loss = nt_xent(data["x1"] @ weight, data["x2"] @ weight, 0.3)
    loss.backward()
    assert two["loss"] == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(torch.tensor(two["grad"]), weight.grad, atol=1e-5, rtol=1e-4)
