"""examples/inspection.py at small size: on VisA's fryum where it is, otherwise on drawn parts."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples.inspection import main
from tests.eval.helpers import SHARED


@pytest.mark.parametrize("data", ["drawn", pytest.param("fryum", marks=pytest.mark.slow)])
def test_example_runs(data, tmp_path, capfd):
    visa = SHARED / "visa"
    if data == "fryum" and not (visa / "fryum").is_dir():
        pytest.skip("VisA's fryum is not here")
    given = ["--visa", str(visa)] if data == "fryum" else []
    main([*given, "--out", str(tmp_path), "--photographs", "12", "--image-size", "64"])
    printed = capfd.readouterr().out
    assert "of good parts are expected above it" in printed
    assert "0 false alarms" in printed
    rows = [json.loads(line) for line in (tmp_path / "scores" / "scores.jsonl").read_text().splitlines()]
    mean = {kind: [r["score"] for r in rows if kind in r["image"]] for kind in ("Normal", "Anomaly")}
    assert len(mean["Normal"]) == len(mean["Anomaly"])
    assert sum(mean["Anomaly"]) > sum(mean["Normal"])
    assert (tmp_path / "part-tradeoff.svg").is_file()
    assert (tmp_path / "scores" / "gallery.html").is_file()
    assert "features are " in printed
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        return
    known = {Path(row["image"]).name: row["score"] for row in rows if "Anomaly" in row["image"]}
    exported = [line.split() for line in printed.splitlines() if re.match(r"\S+ is (above|below) the threshold", line)]
    assert len(exported) == len(list((tmp_path / "heat maps").glob("*-heat.png"))) == 3
    for words in exported:
        assert float(words[0]) == pytest.approx(known[Path(words[-1]).name], rel=1e-3)
