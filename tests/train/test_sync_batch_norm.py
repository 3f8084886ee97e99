"""Two processes train a model converted to SyncBN, are killed and resumed, and end with the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.helpers import ROOT, assert_same_weights, write_photos

_WORKER = """
import sys, torch
import train.setup
from train.__main__ import main

# SyncBN needs CUDA: convert as on GPUs, but let each layer use the statistics of its own process.
torch.nn.SyncBatchNorm.forward = torch.nn.BatchNorm2d.forward
torch.nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None
build = train.setup.build_method

def converted(config, *arguments):
    method = build(config, *arguments)
    method = train.setup.synchronise_batch_norm(method, config, torch.device("cuda"), 2)
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in method.modules()) > 50
    return method

train.setup.build_method = converted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_resumed_to_the_same_weights(tmp_path: Path):
    (tmp_path / "worker.py").write_text(_WORKER)
    options = (
        "simsiam", "--data.train", str(write_photos(tmp_path / "photos", 32)), "--model.arch", "mobilenetv2_100",
        "--data.image-size", "32", "--data.workers", "0", "--optim.batch-size", "8", "--optim.epochs", "3",
        "--checkpoint.every", "2", "--simsiam.projector-dim", "32", "--simsiam.predictor-dim", "8",
    )  # fmt: skip

    def launch(out: str) -> subprocess.Popen[str]:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "worker.py")]
        return subprocess.Popen(
            [sys.executable, *command, *options, "--out", str(tmp_path / out)], start_new_session=True, text=True,
            stderr=subprocess.PIPE,
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    whole = launch("whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read()
    killed = launch("killed")
    ranks = ""
    while not (tmp_path / "killed" / "checkpoints" / "step-00000004").exists() and killed.poll() is None:
        ranks = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout or ranks
        time.sleep(0.02)
    for pid in (killed.pid, *map(int, ranks.split())):  # ranks have sessions of their own
        os.kill(pid, signal.SIGKILL)
    killed.wait(timeout=60)
    assert not (tmp_path / "killed" / "export").exists()
    resumed = launch("killed")
    assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
