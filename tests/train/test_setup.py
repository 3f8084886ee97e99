"""What `begin` does to the process and the model."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from tests.train.helpers import ROOT
from train.config import DataConfig
from train.recipes import RECIPES, SimSiam
from train.setup import synchronise_batch_norm

FAULTS = """
import resource, sys, torch
from train.setup import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10**7)
before = faults()
for _ in range(10):
    torch.ones(10**7)
print(faults() - before)
"""


def faults(mode: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_find_memory_that_was_touched_before():
    assert faults("keep") < faults("leave") / 2  # the heap may have to grow once or twice more


# fmt: off
FAMILIES = ("resnet18", "wide_resnet50_2", "mobilenetv2_100", "efficientnet_b0", "mobilenetv3_small_050", "lcnet_035",
            "regnety_002", "test_convnext", "test_vit")
# fmt: on


@pytest.mark.parametrize("arch", FAMILIES)
def test_synchronising_batch_norm_changes_no_output(arch: str):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0, **({"img_size": 64} if arch == "test_vit" else {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 3, 64, 64)
    expected = model.eval()(images)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    config = SimSiam(data=DataConfig(train="photos"), out=Path("out"))
    converted = synchronise_batch_norm(model, config, torch.device("cuda"), 2).eval()
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == norms
    assert torch.equal(converted(images), expected)


def norms(recipe: str, device: str, processes: int, **changes: object) -> int:
    """The number of synchronised batch norms that a recipe trains with."""
    own = RECIPES[recipe](data=DataConfig(train="photos"), out=Path("out"))
    config = dataclasses.replace(own, model=dataclasses.replace(own.model, **changes))
    model = timm.create_model("test_resnet", num_classes=0)
    converted = synchronise_batch_norm(model, config, torch.device(device), processes)
    return sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_simsiam_and_simclr_synchronise_batch_norm_and_only_over_several_gpus(recipe: str):
    synchronised = recipe in ("simsiam", "simclr")
    assert (norms(recipe, "cuda", 2) > 0) == synchronised
    assert (norms(recipe, "cuda", 2, sync_batch_norm=not synchronised) > 0) != synchronised
    assert norms(recipe, "cuda", 1, sync_batch_norm=True) == 0
    assert norms(recipe, "cpu", 2, sync_batch_norm=True) == 0


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_openmp_threads_soon_sleep_while_they_wait_unless_the_user_says_otherwise(own: dict[str, str], expected: str):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names} | own
    code = "import os, sys, train; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout.split() == [expected, "False"]  # torch, once loaded, no longer looks
