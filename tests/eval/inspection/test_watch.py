"""A camera's drop folder, with the real command in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

from eval.inspection.predict import predict
from tests.eval.helpers import ROOT
from tests.eval.inspection.helpers import fitted


def wait_for(condition, seconds=300):  # starting a process takes a minute on a busy machine
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_end_without_a_new_photograph_and_with_an_empty_file(place, tmp_path):
    folder, out, file = tmp_path / "camera", tmp_path / "camera", fitted(place, tmp_path, "knn")
    folder.mkdir()

    def watch(until):
        timer = threading.Timer(0, lambda: (wait_for(until), time.sleep(1), os.kill(os.getpid(), signal.SIGTERM)))
        timer.start()
        done = predict(file, [folder], out, watch=True)
        timer.join()
        return done

    assert watch((folder / "scores.jsonl").exists).rows == []
    assert (folder / "gallery.html").exists()
    (folder / "empty.png").touch()
    os.utime(folder / "empty.png", (time.time() + 3600,) * 2)  # the camera's clock is ahead
    assert "empty.png: not a readable image" in watch(lambda: "empty" in (out / "scores.jsonl").read_text()).errors[0]


def test_photographs_are_scored_once_they_are_complete(place, tmp_path):
    folder, out = tmp_path / "camera", tmp_path / "camera" / "out"
    folder.mkdir()
    spot = place / "set" / "tile" / "test" / "spot"
    shutil.copy(spot / "000.png", folder / "already there.png")
    command = [sys.executable, "-m", "eval", "predict", str(fitted(place, tmp_path)), str(folder)]
    process = subprocess.Popen(
        [*command, "--watch", "--out", str(out)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def rows():
        lines = (out / "scores.jsonl").read_text().splitlines() if (out / "scores.jsonl").exists() else []
        return [json.loads(line) for line in lines]

    try:
        wait_for(lambda: len(rows()) == 1)
        content = (spot / "001.png").read_bytes()
        slow = folder / "slow.png"
        with open(slow, "wb") as file:  # a camera that writes in pieces, with a pause longer than one look
            file.write(content[: len(content) // 2])
            file.flush()
            time.sleep(3)
            assert len(rows()) == 1
            file.write(content[len(content) // 2 :])
        wait_for(lambda: len(rows()) == 2)
    finally:
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert errors == ""
    assert "2 of 2 photographs are above the threshold" in printed
    assert [row["error"] for row in rows()] == [None, None]
    assert "slow.png" in (out / "gallery.html").read_text()


def test_ctrl_c_before_the_first_photograph_leaves_an_empty_gallery(place, tmp_path):
    detector, folder, usual = fitted(place, tmp_path), tmp_path / "camera", signal.getsignal(signal.SIGINT)
    folder.mkdir()

    def interrupt():
        wait_for(lambda: signal.getsignal(signal.SIGINT) is not usual)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = predict(detector, [folder], tmp_path / "out", watch=True)
    assert (done.rows, done.scored) == ([], 0)
    assert "0 of 0 photographs" in done.gallery.read_text()
