"""Runs that are told to stop: every process at the same step, with a saved state, and the documented exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train.loop
from tests.train.helpers import ROOT, arguments, free_port, run_train
from train.__main__ import main

WEIGHTS = "export/model.safetensors"


def signalled_at(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process get a signal early in a step."""
    original = train.loop.set_learning_rate

    def set_learning_rate(optimizer, config, now, steps_per_epoch):
        if now == step:
            os.kill(os.getpid(), number)
        return original(optimizer, config, now, steps_per_epoch)

    monkeypatch.setattr(train.loop, "set_learning_rate", set_learning_rate)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_finishes_the_step_saves_and_the_run_goes_on(
    name: str, code: int, photos: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    number, out = signal.Signals[name], tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signalled_at(1, number, patch)
        assert main(arguments(photos, out)) == code
    assert signal.getsignal(number) == before
    said = capfd.readouterr().err
    assert f"stopped by {name}; saved in {out / 'checkpoints'} after step 2 of 6. Run the same command again" in said
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"]
    assert main(arguments(photos, out)) == 0
    assert (out / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()


def test_the_time_limit_stops_after_a_step_and_every_launch_makes_progress(photos: Path, tmp_path: Path):
    for step in (1, 2):
        assert main(arguments(photos, tmp_path / "run", "--max-hours", "1e-9")) == 75
        assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").is_dir()


def test_a_signal_in_the_last_step_does_not_keep_the_run_from_finishing(
    photos: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    signalled_at(5, signal.SIGTERM, monkeypatch)
    assert main(arguments(photos, tmp_path / "run")) == 0
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert path.exists(), process.communicate()[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_spares_the_workers_until_all_is_saved(
    number: signal.Signals, code: int, photos: Path, tmp_path: Path
):
    """What a terminal's Ctrl-C and many schedulers do."""
    command = [sys.executable, "-m", "train", *arguments(photos, tmp_path / "run", "--optim.epochs", "2000")]
    process = subprocess.Popen(
        [*command, "--data.workers", "2"], cwd=ROOT, start_new_session=True, text=True, stderr=subprocess.PIPE
    )
    wait_for(tmp_path / "run" / "checkpoints", process)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "saved in" in said


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(photos: Path, tmp_path: Path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
    options = arguments(photos, tmp_path / "run", "--optim.epochs", "2000")
    process = subprocess.Popen(
        [sys.executable, *launcher, *options], cwd=ROOT, text=True, stderr=subprocess.PIPE,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    wait_for(tmp_path / "run" / "checkpoints", process)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert said.count("exitcode  : 75") == 2, said
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert f"after step {int(newest.name[5:])} of 6000" in said
    assert load_file(newest / "model.safetensors")
    done = run_train(*arguments(photos, tmp_path / "run", "--optim.epochs", "2000", "--max-hours", "1e-9"))
    assert done.returncode == 75, done.stderr  # one process goes on from what two saved


@pytest.mark.slow
def test_without_a_launcher_each_process_of_a_signalled_job_exits_with_75(photos: Path, tmp_path: Path):
    """As examples/launch/slurm.sh starts them: srun's tasks, with the numbers that accelerate reads."""
    port = free_port()
    command = [sys.executable, "-m", "train", *arguments(photos, tmp_path / "run", "--optim.epochs", "2000")]
    common = os.environ | {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    tasks = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stderr=subprocess.PIPE,
            env=common | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in "01"
    ]  # fmt: skip
    wait_for(tmp_path / "run" / "checkpoints", tasks[0])
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    said = [task.communicate(timeout=60)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [75, 75], said
    assert "stopped by SIGUSR1; saved in" in said[0]
