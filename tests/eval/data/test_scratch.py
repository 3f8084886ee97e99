"""Scratch arrays have their room on disk before anything is written to them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from eval.data.scratch import scratch

WRITE = """
import numpy
from eval.data.scratch import scratch
from spd_weights.errors import SpdError
try:
    scratch((1000, 1000))[:] = 1
except SpdError as error:
    print(error)
"""


@pytest.fixture
def small_disk(tmp_path):
    """The beginning of a command that runs with TMPDIR on a disk of 1 MB."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && TMPDIR={tmp_path} exec "$@"'
    if not shutil.which("unshare") or subprocess.run([*command, mount, "sh", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a file system")
    return [*command, mount, "sh"]


def test_a_full_disk_is_an_error_and_no_crash(small_disk, tmp_path):
    done = subprocess.run([*small_disk, sys.executable, "-c", WRITE], capture_output=True, text=True)
    assert done.returncode == 0, done  # without reserved space: -7, SIGBUS
    assert done.stdout.startswith(f"{tmp_path}: no room for 4.0 MB")
    assert "TMPDIR" in done.stdout


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint8])
def test_zeros_that_can_be_written(dtype):
    array = scratch((3, 5, 7), dtype)
    assert array.shape == (3, 5, 7)
    assert array.dtype == dtype
    assert not array.any()
    array[1] = 1
    assert array.sum() == 35
    assert scratch((0, 5)).shape == (0, 5)
