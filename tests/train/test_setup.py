"""What `begin` does to the process and the model."""

import platform
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

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
    converted = synchronise_batch_norm(model).eval()
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == norms
    assert torch.equal(converted(images), expected)
