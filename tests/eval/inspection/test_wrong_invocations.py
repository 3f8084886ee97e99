"""Mistakes of all kinds end with exit code 2 and one sentence, and leave every file as it was."""

import json
import resource
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eval.__main__ import main
from eval.inspection.predict import predict
from spd_weights.files import sha256
from tests.eval.helpers import RANDOM, mask, save
from tests.eval.inspection.helpers import fitted


@pytest.fixture(scope="module")
def room(place, tmp_path_factory):
    """Good photographs, a detector, its scores of one photograph, and all that can be mistaken for them."""
    room = tmp_path_factory.mktemp("wrong")
    tile = place / "set" / "tile"
    shutil.copytree(tile / "train" / "good", room / "good")
    shutil.copytree(tile / "test" / "spot", room / "bad")
    detector = fitted(place, room, "knn")
    predict(detector, [room / "bad" / "000.png"], room / "scores", workers=0)
    shutil.copytree(room / "scores", room / "damaged")
    (room / "damaged" / "scores.jsonl").write_text("no JSON\n")
    for name in ("empty", "folder.safetensors"):
        (room / name).mkdir()
    (room / "notes.txt").write_text("no picture")
    (room / "cut.safetensors").write_bytes(detector.read_bytes()[:-40])
    with safe_open(detector, framework="pt") as file:
        about = json.loads(file.metadata()["anomaly_detector"])
    newer = {"anomaly_detector": json.dumps({**about, "schema": 99})}
    save_file(load_file(detector), room / "newer.safetensors", metadata=newer)
    for index in range(12):
        shutil.copy(room / "good" / "000.png", save(Image.new("L", (1, 1)), room / "same" / f"{index}.png"))
        few = room / "few" / f"{index}.png"
        save(Image.fromarray(np.full((30, 50, 3), index, dtype=np.uint8)), few)
        if index > 8:
            few.write_bytes(few.read_bytes()[: 50 + index])
    shutil.copytree(room / "scores", room / "taken")
    (room / "taken" / "run.json").unlink()
    (room / "taken" / "scores.jsonl").unlink()
    numbers = {name: tensor.fill_(float("nan")) for name, tensor in load_file(detector).items()}
    save_file(numbers, room / "nan.safetensors", metadata={"anomaly_detector": json.dumps(about)})
    del about["threshold"]
    save_file(load_file(detector), room / "partial.safetensors", metadata={"anomaly_detector": json.dumps(about)})
    save_file(load_file(detector), room / "list.safetensors", metadata={"anomaly_detector": "[1]"})
    for index in range(4):
        save(Image.new("L", (50, 30)), room / "black" / f"{index:03}.png")
        save(mask().resize((30, 50)), room / "turned" / f"{index:03}.png")
    return room


FIT = [
    ("--normal gone --save p.safetensors", "gone: no such photograph or folder"),
    ("--normal empty --save p.safetensors", "empty: no photograph in it"),
    ("--normal good/*.gif --save p.safetensors", "*.gif: no photograph in it"),
    ("--normal notes.txt --save p.safetensors", "too few photographs of good parts: 1; give a folder with at least 10"),
    ("--normal good/000.png --save p.safetensors", "too few photographs of good parts: 1;"),
    ("--normal same --save p.safetensors", "too few photographs of good parts: 1 (same/1.png: a copy of same/0.png"),
    (
        "--normal few --save p.safetensors",
        "too few photographs of good parts: 9 (few/10.png: damaged image (image file is truncated)",
    ),
    ("--normal good --save detector", "--save detector: the detector's file must be called <name>.safetensors"),
    ("--normal good --save good/000.png", "must be called <name>.safetensors"),
    ("--normal good --save notes.txt/p.safetensors", "cannot be written there"),
    ("--normal good --save folder.safetensors", "cannot be written there"),
    ("--normal good --save p.safetensors --weights mobilnet", "neither a timm model nor a folder here"),
    ("--normal good --save p.safetensors --false-alarms 200%", "200% is not in (0, 1)"),
    ("--normal good --save p.safetensors --false-alarms many", "invalid rate value: 'many'"),
    ("--normal good --save p.safetensors --workers -1", "-1 is negative"),
    ("--normal good --save p.safetensors --tiles 2 --image-size 32", "choose a larger multiple of 32"),
    ("--normal good --save p.safetensors --defects good/003.png", "the same photograph as good/003.png"),
    ("--normal good --save p.safetensors --masks turned", "--masks are the masks of --defects"),
    ("--normal good --save p.safetensors --defects bad --masks turned", "000.png: not the size of bad/000.png"),
    ("--normal good --save p.safetensors --defects bad --masks good/012.png", "no mask of these photographs"),
    ("--normal good --save p.safetensors --defects bad --masks bad", "no mask of these photographs"),
    ("--normal good --save p.safetensors --defects bad --masks black", "marks no pixel"),
    (f"--normal {'n' * 300} --save p.safetensors", "File name too long"),
    ("--save p.safetensors", "--normal PATH, or --data DIR with --category NAME"),
    ("--data good --save p.safetensors", "--normal PATH, or --data DIR with --category NAME"),
    ("--data good --category screw --save p.safetensors", "no data set recognised"),
]
PREDICT = [
    ("gone.safetensors bad --out new", "gone.safetensors: no such file"),
    ("bad/000.png bad --out new", "bad/000.png: damaged, or not a detector"),
    ("cut.safetensors bad --out new", "cut.safetensors: damaged, or not a detector"),
    ("newer.safetensors bad --out new", "in format 99, this version reads format"),
    ("nan.safetensors bad --out new", "nan.safetensors: damaged detector (numbers that are not finite)"),
    ("partial.safetensors bad --out new", "partial.safetensors: damaged detector (no threshold)"),
    ("list.safetensors bad --out new", "list.safetensors: a safetensors file, but not a detector"),
    (f"{'n' * 300} bad --out new", "File name too long"),
    ("knn.safetensors bad --out taken", "taken: has pictures already, which would be overwritten"),
    ("knn.safetensors gone.png --out new", "gone.png: no such photograph or folder"),
    ("knn.safetensors empty --out new", "empty: no photograph in it"),
    ("knn.safetensors bad --out notes.txt", "notes.txt: is a file, but scores need a folder"),
    ("knn.safetensors bad --out scores --threshold 1", "holds scores of another detector or threshold"),
    ("knn.safetensors bad --out damaged", "scores.jsonl: damaged"),
    ("knn.safetensors bad --out new --threshold nan", "nan is not a finite number"),
    ("knn.safetensors bad --out new --weights random:test_resnet", "are not those that"),
    ("knn.safetensors bad/000.png --out new --watch", "--watch waits for photographs in a folder"),
]


def files(room):
    return {path: sha256(path) for path in room.rglob("*") if path.is_file()}


def refused(arguments, capsys):
    """Run a command that must fail; returns its last line on stderr."""
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse, after the usage
        code = end.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2, lines
    assert "error: " in lines[-1]
    assert not any("Traceback" in line for line in lines)
    if not lines[0].startswith("usage:"):
        assert len(lines) == 1
    return lines[-1]


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [("fit", *case) for case in FIT] + [("predict", *case) for case in PREDICT],
    ids=[f"{command} {words}" for command, cases in (("fit", FIT), ("predict", PREDICT)) for words, _ in cases],
)
def test_one_sentence_and_nothing_lost(room, monkeypatch, capsys, command, words, sentence):
    monkeypatch.chdir(room)
    before = files(room)
    arguments = words.split()
    if command == "fit":
        small = ["--weights", RANDOM, "--method", "knn", "--image-size", "64", "--workers", "0"]
        arguments = [*small, *arguments]  # the words' own options come last and win
    assert sentence in refused([command, *arguments], capsys)
    assert files(room) == before


@contextmanager
def largest_file(size):
    """No file of this process may grow beyond `size` bytes; as on a full disk, writing more fails."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_while_fitting(room, tmp_path, capsys):
    fit = ["fit", "--normal", str(room / "good"), "--weights", RANDOM, "--image-size", "64", "--workers", "0"]
    earlier = tmp_path / "part.safetensors"
    shutil.copy(room / "knn.safetensors", earlier)
    for limit, sentence in ((1000, "no room for"), (900_000, "part.safetensors: cannot be written")):
        with largest_file(limit):
            assert sentence in refused([*fit, "--method", "padim", "--save", str(earlier)], capsys)
        assert sha256(earlier) == sha256(room / "knn.safetensors")
        assert list(tmp_path.iterdir()) == [earlier]


def test_full_disk_while_predicting_keeps_what_was_scored(room, tmp_path, capsys):
    command = ["predict", str(room / "knn.safetensors"), str(room / "bad"), "--out", str(tmp_path / "out")]
    shutil.copytree(room / "scores", tmp_path / "out")
    scored = (tmp_path / "out" / "scores.jsonl").read_text()
    with largest_file(len(scored) + 100):
        assert "what was scored before is kept" in refused([*command, "--workers", "0"], capsys)
    assert main([*command, "--workers", "0"]) == 3
    lines = (tmp_path / "out" / "scores.jsonl").read_text()
    assert lines.startswith(scored)
    assert len([json.loads(line) for line in lines.splitlines()]) == 4


def test_defects_that_cannot_be_read_do_not_lose_the_detector(room, tmp_path, capsys):
    saved, damaged = tmp_path / "part.safetensors", tmp_path / "damaged.png"
    damaged.write_text("no picture")
    fit = ["fit", "--normal", str(room / "good"), "--weights", RANDOM, "--image-size", "64", "--workers", "0"]
    sentence = "--defects: no photograph could be read"
    assert sentence in refused([*fit, "--method", "knn", "--defects", str(damaged), "--save", str(saved)], capsys)
    assert main(["predict", str(saved), str(room / "bad"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 3
