"""The watch over a job's processes ends before they do."""

import os
import subprocess
import sys

from tests.train.helpers import ROOT, free_port

_TASK = """
import sys, time
import torch.distributed as dist
from train.monitor.heartbeat import Heartbeat

dist.init_process_group("gloo")
heart = Heartbeat(60)
heart.interval = 1e-4  # so that its thread is all but always inside the store
time.sleep(1)
dist.barrier()
heart.stop()
sys.exit(75 if not heart.thread.is_alive() else 1)
"""


def test_no_thread_is_left_in_the_store_when_a_process_exits():
    """Such a thread would abort it: a scheduler then sees signal 6 instead of the exit code 75 that requeues."""
    port = free_port()
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", _TASK], cwd=ROOT, env=common | {"RANK": rank}, text=True, stderr=subprocess.PIPE
        )
        for rank in "01"
    ]
    said = [task.communicate(timeout=60)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [75, 75], said
