"""Images stored as pixels give the same crops and labels as the files they come from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.helpers import recipe_config, small_config, write_photos
from train.data.loader import Crops
from train.data.predecode import main
from train.data.sources import open_images

KEYS = [(0, index) for index in range(24)]


def test_crops_and_labels_are_those_of_the_files(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "pixels"
    assert main(["--data", str(classes), "--out", str(out), "--labelled", "--per-tar", "10", "--workers", "2"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == [f"train-{i:05d}-of-00003.tar" for i in range(3)]
    assert capsys.readouterr().out == f"3 tars in {out}; train on them with --data.train {out}\n"
    config = recipe_config("simsiam", classes, tmp_path, 0.0)
    files, pixels = (open_images(str(source), labelled=True) for source in (classes, out))
    assert pixels.features["label"].names == files.features["label"].names == ["bolt", "nut"]
    expected, found = (Crops(table, config).__getitems__(KEYS) for table in (files, pixels))
    assert torch.equal(found.crops, expected.crops)
    assert torch.equal(found.labels, expected.labels)
    assert not found.bad


def test_a_second_run_writes_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos, out = write_photos(tmp_path / "photos", 12), tmp_path / "pixels"
    (photos / "005.jpg").write_bytes(b"no image")
    command = ["--data", str(photos), "--out", str(out), "--per-tar", "4", "--workers", "1"]
    assert main(command) == 0
    assert capsys.readouterr().err.startswith(f"left out an unreadable image: {photos / '005.jpg'}: ")
    assert len(open_images(str(out))) == 11
    first, second, third = sorted(out.iterdir())
    kept, again = first.stat().st_mtime_ns, second.read_bytes()
    second.write_bytes(again[:1000])
    second.rename(second.with_suffix(".partial"))  # killed while it was written
    third.unlink()
    assert main(command) == 0
    assert sorted(out.iterdir()) == [first, second, third]
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == again


def test_large_images_are_shrunk_to_the_short_side(tmp_path: Path):
    photos, out = tmp_path / "photos", tmp_path / "pixels"
    photos.mkdir()
    for name, size in (("large.png", (300, 200)), ("small.png", (90, 60))):
        Image.fromarray(np.full((size[1], size[0], 3), 7, np.uint8)).save(photos / name)
    assert main(["--data", str(photos), "--out", str(out), "--short-side", "100", "--workers", "1"]) == 0
    rows = open_images(str(out))[[0, 1]]["image"]
    assert [row["bytes"].partition(b"\n255")[0] for row in rows] == [b"P6\n150 100", b"P6\n90 60"]


def test_bad_input_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 2)
    (tmp_path / "file").write_text("")
    for options, message in (
        (["--data", str(photos), "--out", str(tmp_path / "a"), "--per-tar", "0"], "--per-tar 0: it must be at least 1"),
        (["--data", "nowhere", "--out", str(tmp_path / "a")], "nowhere: no such folder"),
        (["--data", str(photos), "--out", str(tmp_path / "file" / "a")], "cannot be written: Not a directory"),
        (["--data", str(photos), "--out", "/proc/self"], "cannot be written"),
    ):
        assert main(options) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert message in said
        assert "Traceback" not in said


def test_a_ppm_file_may_have_more_at_its_end_but_not_less(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 3)
    Image.open(photos / "000.png").convert("RGB").save(photos / "003.ppm")
    crops = Crops(open_images(str(photos)), small_config(photos, tmp_path))
    assert not crops.__getitems__([(0, 3)]).bad
    whole = (photos / "003.ppm").read_bytes()
    (photos / "003.ppm").write_bytes(whole + b"a comment")
    assert not crops.__getitems__([(0, 3)]).bad
    (photos / "003.ppm").write_bytes(whole[:-5])
    assert list(crops.__getitems__([(0, 3)]).bad) == [3]
