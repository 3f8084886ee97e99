"""Jobs of several processes, one of which is killed, hangs, or whose machine drops off the network."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.train.helpers import ROOT, arguments, write_photos
from train import checkpoint

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def launch(options: list[str], out: Path, before: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    """An endless run; its words go to a file, so that no pipe fills up or is held open by what is left of it."""
    photos = out.parent / "photos"
    if not photos.exists():
        write_photos(photos, 24)
    command = [*before, *TORCHRUN, *options, "-m", "train", *arguments(photos, out, "--optim.epochs", "9999")]
    with open(f"{out}.{len(list(out.parent.glob('*.log')))}.log", "w") as log:
        return subprocess.Popen(
            [*command, "--timeout-minutes", "0.1"],
            cwd=ROOT, env=ENVIRONMENT | env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def wait_for_a_checkpoint(out: Path, *jobs: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        assert all(job.poll() is None for job in jobs), said(out)
        time.sleep(0.05)


def said(out: Path) -> str:
    return "".join(path.read_text() for path in sorted(out.parent.glob("*.log")))


def rank_of(job: subprocess.Popen[str], rank: int) -> int:
    """The process id of a rank; a job's children in the order in which they were started."""
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True)
    return sorted(int(pid) for pid in children.stdout.split())[rank]


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "no longer answers"), (signal.SIGSTOP, "has not answered for 6 s")]
)
def test_a_lost_process_ends_the_job_which_names_it(number: signal.Signals, words: str, tmp_path: Path):
    out = tmp_path / "run"
    job = launch(["--standalone", "--nproc_per_node", "2"], out)
    try:
        wait_for_a_checkpoint(out, job)
        begun = time.monotonic()
        os.kill(rank_of(job, 1), number)
        assert job.wait(timeout=90) != 0
        assert time.monotonic() - begun < 60  # the timeout, and torchrun's own 30 s for what does not obey it
        assert f"rank 1 on {socket.gethostname()} {words}" in said(out)
        assert checkpoint.load_newest(out / "checkpoints", pytest.fail) is not None
    finally:
        if job.poll() is None:
            job.terminate()  # which takes its processes along


@pytest.fixture
def end_host() -> Iterator[Callable[[str], None]]:
    """Two network namespaces joined by a cable, spd-a and spd-b; kills all that runs in one of them."""
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", "spd-a"], capture_output=True).returncode:
        pytest.skip("making network namespaces is not permitted here")

    def end(host: str) -> None:
        """All that runs there; workers of torchrun have sessions of their own."""
        there = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True)
        for pid in there.stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    try:
        run = "netns add spd-b; link add spd-va netns spd-a type veth peer name spd-vb netns spd-b"
        for i, host in enumerate("ab"):
            run += f"; -n spd-{host} addr add 10.77.0.{i + 1}/24 dev spd-v{host}; -n spd-{host} link set spd-v{host} up"
            run += f"; -n spd-{host} link set lo up"
        for command in run.split("; "):
            subprocess.run(["ip", *command.split()], check=True)
        yield end
    finally:
        for host in ("spd-a", "spd-b"):
            end(host)
            subprocess.run(["ip", "netns", "del", host], check=False)


@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_two_hosts_of_which_one_is_lost(how: str, end_host: Callable[[str], None], tmp_path: Path):
    out = tmp_path / "run"
    write_photos(tmp_path / "photos", 24)
    jobs = [
        launch(
            ["--nnodes", "2", "--node_rank", str(i), "--master_addr", "10.77.0.1", "--master_port", "29871"],
            out, before=("ip", "netns", "exec", f"spd-{host}"), GLOO_SOCKET_IFNAME=f"spd-v{host}",
        )
        for i, host in enumerate("ab")
    ]  # fmt: skip
    wait_for_a_checkpoint(out, *jobs)
    if how == "killed":
        end_host("spd-b")
    else:
        subprocess.run(["ip", "-n", "spd-b", "link", "set", "spd-vb", "down"], check=True)
    assert jobs[0].wait(timeout=90) != 0
    assert "rank 1 on" in said(out)
    assert checkpoint.load_newest(out / "checkpoints", pytest.fail) is not None
