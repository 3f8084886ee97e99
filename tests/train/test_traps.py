"""The known traps of accelerate and of `datasets` when runs are resumed or shared among processes.

Each is a test here, or a sentence on why it cannot occur:

accelerate
- `save_state` is not atomic, and `load_state` takes the newest folder, complete or not; automatic naming starts at 0
  after a resume, and `total_limit` deletes before it writes: neither is called. Own folders, named by the step, are
  renamed into place, and older ones deleted afterwards (test_checkpoint.py, test_kill.py).
- `skip_first_batches` after a resume gives another order unless samplers are seedable and told the epoch; the sampler's
  position is not saved for tables: no sampler has a state. What a step sees is a function of seed and step
  (data/test_loader.py), and accelerate prepares no loader: `test_accelerate_prepares_neither_loader_…`.
- Random states are saved a rank, and missing for ranks that are new: there are none. `test_a_step_has_its_own_seed`,
  `test_processes_may_come_and_go_in_the_middle_of_an_epoch`.
- A compiled model saves its tensors under other names: `test_compiling_renames_nothing`.
- `AcceleratedScheduler` steps once per process: the learning rate is computed from the step (test_optim.py).
- `even_batches` repeats samples to fill the last batch: that belongs to accelerate's loader, too.
- SyncBatchNorm cannot run on a CPU: it is put in on GPUs alone (`train/setup.py`).
- Buffers are broadcast from the first process before each forward pass, which overwrites what others computed:
  `test_moco_s_queue_is_the_same_on_every_process`.
- `accelerate launch --cpu --num_processes 2` starts one process: it trains as one, at the same global batch.

datasets
- `split_dataset_by_node` and `prepare` shard twice, the default dispatcher shares the first process's shard, and
  fewer shards than processes × workers leave some idle: none of them is used, and every image is seen once whatever
  divides (`test_an_epoch_sees_each_image_at_most_once_…` in data/test_loader.py).
- The shuffle buffer is not part of a streaming dataset's state: there is no buffer. `.skip(n)` after a split skips
  n / world on each: nothing is skipped, a resumed order starts later.
"""

import json
from pathlib import Path

import pytest
import torch

import train.loop
import train.setup
from tests.train.data.helpers import write_parquet
from tests.train.helpers import ARCH, ROOT, run_train, small_config, write_photos
from train.backbone import make_backbone
from train.config import ModelConfig, OptimConfig
from train.loop import pretrain
from train.methods import build_method

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
TWO = {"launcher": LAUNCHER, "ACCELERATE_USE_CPU": "true"}
# Without batch norm, which on a CPU sees its own process's share alone.
COMMON = (
    "--model.arch", "test_vit", "--model.init", "none", "--data.image-size", "32", "--data.workers", "0",
    "--optim.batch-size", "8", "--optim.epochs", "2", "--log-every", "1",
)  # fmt: skip


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_accelerate_prepares_neither_loader_nor_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepared: list[type] = []
    original = train.setup.Accelerator.prepare

    def prepare(self, *objects):
        prepared.extend(map(type, objects))
        return original(self, *objects)

    monkeypatch.setattr(train.setup.Accelerator, "prepare", prepare)
    pretrain(small_config(write_photos(tmp_path / "photos", 8), tmp_path / "run"))
    assert [kind.__name__ for kind in prepared] == ["SimSiamMethod", "SGD"]


def test_a_step_has_its_own_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Random states are not saved; what draws from the global one in a step does so from the step's own seed."""
    drawn: list[float] = []
    original = train.loop.forward_backward

    def forward_backward(run, parts):
        drawn.append(torch.rand(()).item())
        return original(run, parts)

    monkeypatch.setattr(train.loop, "forward_backward", forward_backward)
    photos = write_photos(tmp_path / "photos", 24)
    pretrain(small_config(photos, tmp_path / "whole"))
    whole, drawn[:] = list(drawn), []
    for steps in (2, 6):
        torch.manual_seed(steps)  # whatever was drawn before
        optim = OptimConfig(epochs=2, batch_size=8, max_steps=steps)
        pretrain(small_config(photos, tmp_path / "parts", optim=optim))
    assert drawn == whole


def test_compiling_renames_nothing(tmp_path: Path):
    config = small_config(tmp_path, tmp_path, model=ModelConfig(arch=ARCH))
    method = build_method(config, make_backbone(config))
    names = [*method.state_dict()]
    method.compile()  # as `train.setup.begin` does, where `torch.compile(method)` would put _orig_mod. before each
    assert [*method.state_dict()] == names


METHODS = {"moco": ("--moco.queue-size", "16", "--moco.dim", "16"), "adapt": ("--optim.steps", "None")}


_WORKER = """
import hashlib, sys
import train.loop
from train.__main__ import main
from train.distributed import rank

export_run = train.loop.export_run

def told(run):
    state = hashlib.sha256(b"".join(t.numpy().tobytes() for t in run.method.state_dict().values())).hexdigest()
    print(f"rank {rank()} ends with {state}", flush=True)
    return export_run(run)

train.loop.export_run = told
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_moco_s_queue_is_the_same_on_every_process(tmp_path: Path):
    """And so is all else: parameters, the slow encoder, the queue and its position."""
    worker = tmp_path / "worker.py"
    worker.write_text(_WORKER)
    options = ("moco", "--data.train", str(write_photos(tmp_path / "photos", 24)), *COMMON, *METHODS["moco"])
    done = run_train(
        *options, "--out", str(tmp_path / "run"), launcher=(*LAUNCHER[:-2], str(worker)),
        ACCELERATE_USE_CPU="true", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = {line.split()[-1] for line in done.stdout.splitlines() if " ends with " in line}
    assert done.stdout.count(" ends with ") == 2
    assert len(states) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["moco", "adapt"])
def test_processes_may_come_and_go_in_the_middle_of_an_epoch(recipe: str, tmp_path: Path):
    """1, 2 and 1 processes at the same global batch, on shards: the losses are those of one throughout."""
    shards = write_parquet(tmp_path / "shards")
    options = (recipe, "--data.train", str(shards), *COMMON, *METHODS[recipe])
    assert run_train(*options, "--out", str(tmp_path / "one")).returncode == 0
    for last, launch in (("4", {}), ("8", TWO), ("12", {})):
        done = run_train(*options, "--out", str(tmp_path / "many"), "--optim.max-steps", last, **launch)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.slow
def test_images_that_any_process_cannot_read_are_named_and_counted(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 24)
    names = [f"{i:03d}.jpg" for i in (1, 6, 11, 21)]
    for name in names:
        (photos / name).write_text("not an image")
    options = ("moco", "--data.train", str(photos), "--data.max-bad-fraction", "0.2", *COMMON, *METHODS["moco"])
    done = run_train(*options, "--out", str(tmp_path / "run"), **TWO)
    assert done.returncode == 0, done.stderr
    assert all(done.stderr.count(f"{name} (index") == 1 for name in names)
    assert json.loads((tmp_path / "run/export/training.json").read_text())["data"]["unreadable"] == 4
