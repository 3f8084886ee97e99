"""Scores on disk: what is scored again, and names that files may have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eval.inspection.inspector import Inspector
from eval.inspection.predict import predict
from tests.eval.helpers import ROOT
from tests.eval.inspection.helpers import fitted


def test_photographs_that_could_not_be_read_are_tried_again(place, tmp_path):
    file, folder, out = fitted(place, tmp_path, "knn"), tmp_path / "photos", tmp_path / "out"
    shutil.copytree(place / "set" / "tile" / "test" / "spot", folder)
    shutil.move(folder / "003.png", tmp_path / "away.png")
    os.symlink(tmp_path / "target.png", folder / "003.png")  # as if on a share that is away
    (folder / "text.png").write_text("no picture")
    assert [row["image"][-8:] for row in predict(file, [folder], out).rows if row["error"]] == ["/003.png", "text.png"]
    shutil.move(tmp_path / "away.png", tmp_path / "target.png")
    (folder / "text.png").unlink()  # as the message advises
    second = predict(file, [folder], out)
    assert (second.scored, second.errors, len(second.rows)) == (1, [], 4)


def test_photograph_replaced_while_it_is_scored_counts_as_changed(place, tmp_path):
    file, folder, out = fitted(place, tmp_path, "knn"), tmp_path / "photos", tmp_path / "out"
    photo, tests = folder / "latest.png", place / "set" / "tile" / "test"
    folder.mkdir()
    shutil.copy(tests / "good" / "000.png", photo)
    inspect = Inspector.inspect

    def replaced(self, files, workers):
        for found in inspect(self, files, workers):
            shutil.copy(tests / "spot" / "000.png", photo)
            yield found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inspector, "inspect", replaced)
        good = predict(file, [folder], out, workers=0).rows[0]["score"]
    assert predict(file, [folder], out, workers=0).rows[0]["score"] > good


def test_own_pictures_are_never_scored_and_photographs_beside_them_are(place, tmp_path, monkeypatch):
    file = fitted(place, tmp_path, "knn")
    shutil.copytree(place / "set" / "tile" / "test" / "spot", tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    for _ in range(2):
        done = predict(file, [Path("**/*.[jp]*g")], Path(), workers=0)
        assert [row["image"] for row in done.rows] == [f"{index:03}.png" for index in range(4)]


def test_names_that_are_no_text_too_long_or_differ_in_case(place, tmp_path):
    file, folder, out = fitted(place, tmp_path, "knn"), tmp_path / "photos", tmp_path / "out"
    photo = place / "set" / "tile" / "test" / "spot" / "000.png"
    names = [b"\xff.png", b"A.png", b"deep/a.png", b"n" * 251 + b".png", b"deep/" + b"n" * 251 + b".png"]
    (folder / "deep").mkdir(parents=True)
    for name in names:
        shutil.copy(photo, os.path.join(os.fsencode(folder), name))
    command = [sys.executable, "-m", "eval", "predict", str(file), str(folder), "--out", str(out), "--workers", "0"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True)
        assert (done.returncode, done.stderr) == (3, b"")
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert sorted(os.fsencode(os.path.relpath(row["image"], folder)) for row in rows) == sorted(names)
    assert len({row["picture"].casefold() for row in rows}) == 5
    assert b"\\udcff.png" in (out / "scores.csv").read_bytes()
    assert b"\\udcff.png" in (out / "gallery.html").read_bytes()
