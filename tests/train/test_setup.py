"""Freed memory is kept, as page faults tell."""

import platform
import subprocess
import sys

import pytest

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
