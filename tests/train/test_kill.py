"""SIGKILL at random moments, again and again: the run ends with the weights of an uninterrupted one, to the bit.

    python -m pytest -m kill tests/train/test_kill.py -s       # minutes; prints what happened

Every life is a process of its own, forked from a server that has the imports behind it.
"""

import json
import multiprocessing
import random
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

import train.loop
from tests.train.data.helpers import PHOTOS, write_parquet
from tests.train.helpers import ARCH, write_photos
from train.__main__ import main

KILLS = 20  # every other one inside a save
STEPS = 90
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.train.test_kill"])

COMMON = (
    "--model.arch", ARCH, "--model.init", "none", "--data.image-size", "32", "--optim.batch-size", "8",
    "--optim.epochs", str(STEPS // 3), "--checkpoint.every", "2", "--log-every", "1",
)  # fmt: skip
RECIPES = {
    "simsiam": ("--simsiam.projector-dim", "32", "--simsiam.predictor-dim", "8"),
    "moco": ("--moco.queue-size", "16", "--moco.dim", "16"),
    "simclr": ("--simclr.projector-dim", "16"),
    "supervised": ("--optim.accumulate", "2"),
    "adapt": ("--optim.steps", "None"),
}
CASES = [(recipe, weight) for recipe in RECIPES for weight in ("0.1", "0") if (recipe, weight) != ("adapt", "0")]


def live(arguments: list[str], visits: Path) -> None:
    """Train, noting which images each step sees."""
    torch.set_num_threads(1)
    make_views = train.loop.ViewMaker.__call__

    def noted(self, batch):
        with visits.open("a") as file:
            file.write(json.dumps([batch.epoch, *batch.indices.tolist()]) + "\n")
        return make_views(self, batch)

    train.loop.ViewMaker.__call__ = noted
    raise SystemExit(main(arguments))


def start(arguments: list[str], visits: Path) -> BaseProcess:
    process = SERVER.Process(target=live, args=(arguments, visits))
    process.start()
    return process


def seen(visits: Path) -> list[tuple[int, ...]]:
    return [tuple(json.loads(line)) for line in visits.read_text().splitlines()] if visits.exists() else []


def half_written(out: Path, since: float) -> bool:
    with suppress(FileNotFoundError):  # it was finished meanwhile
        return any(path.stat().st_mtime > since for path in (out / "checkpoints").glob(".step-*"))
    return False


def kill_at_random(process: BaseProcess, out: Path, visits: Path, inside_save: bool, rng: random.Random) -> bool:
    """Wait for a few steps, and perhaps for the beginning of a save, and a little longer; then SIGKILL.

    Returns:
        Whether a half-written save was left.
    """
    target, begun = len(seen(visits)) + rng.randint(1, 6), time.time()
    while process.is_alive() and len(seen(visits)) < target:
        time.sleep(0.005)
    while inside_save and process.is_alive() and not half_written(out, begun):
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.004 if inside_save else 0.05))
    process.kill()
    process.join()
    return half_written(out, begun)


@pytest.mark.kill
@pytest.mark.parametrize(("recipe", "weight"), CASES)
def test_killed_again_and_again_a_run_ends_with_the_same_weights(recipe: str, weight: str, tmp_path: Path):
    rng = random.Random(f"{recipe} {weight}")
    photos = tmp_path / "photos"
    if (recipe, weight) == ("simsiam", "0.1"):
        write_parquet(photos, photos=PHOTOS[:26])
    else:
        for name, seed in (("a", 1), ("b", 2)):
            write_photos(photos / name, 13, seed=seed)
    options = [recipe, "--data.train", str(photos), *COMMON, *RECIPES[recipe], "--spd.weight", weight]

    whole = start([*options, "--out", str(tmp_path / "whole"), "--data.workers", "0"], tmp_path / "whole.txt")
    whole.join()
    assert whole.exitcode == 0

    out, visits = tmp_path / "killed", tmp_path / "killed.txt"
    arguments = [*options, "--out", str(out), "--data.workers", "0"]
    inside = 0
    for kill in range(KILLS):
        process = start(arguments, visits)
        inside += kill_at_random(process, out, visits, inside_save=kill % 2 == 1, rng=rng)
        assert process.exitcode == -9, f"it ended by itself ({process.exitcode}) before kill {kill}"
    lives = KILLS + 1
    process = start(arguments, visits)
    process.join()
    assert process.exitcode == 0

    end, same = (tmp_path / name / "export" / "model.safetensors" for name in ("whole", "killed"))
    assert end.read_bytes() == same.read_bytes()
    uninterrupted, killed = seen(tmp_path / "whole.txt"), seen(visits)
    assert set(uninterrupted) == set(killed)  # a step that was taken again saw the same images
    assert len(set(killed)) == len(uninterrupted) == STEPS * (2 if recipe == "supervised" else 1)
    epochs = [Counter(i for epoch, *batch in {*killed} if epoch == e for i in batch) for e in range(STEPS // 3)]
    assert all(max(images.values()) == 1 and images.total() == 24 for images in epochs)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").open()] == list(range(1, STEPS + 1))
    print(
        f"\n{recipe}, SPD {weight}: {KILLS} kills ({inside} left a half-written save), {lives} lives, "
        f"{len(killed) - len(uninterrupted)} of {len(uninterrupted)} batches seen again, final weights equal to the bit"
    )
