"""A detector as an ONNX graph computes what the saved detector computes, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.__main__ import main
from eval.data.images import batches
from eval.detectors.methods import Settings
from eval.detectors.saved import load_detector
from eval.inspection import export as exporting
from eval.inspection.export import TOLERANCE, _check, export
from eval.inspection.fit import FitOptions, fit
from spd_weights.errors import SpdError
from tests.eval.helpers import ROOT, mvtec_category, refusal, tiny_export

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
DETECTORS = {
    "padim": (Settings(image_size=64, padim_dims=8), 1),
    "patchcore": (Settings(image_size=64, coreset_ratio=0.1, patchcore_reweight=True), 2),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    mvtec_category(root / "tile", train=12)
    tiny_export(root / "run" / "export")
    return root


def fitted(place, method, settings, tiles=1):
    file = place / f"{method}-{settings.feature_precision}.safetensors"
    fit(sorted((place / "tile/train").rglob("*.png")), file, FitOptions(str(place / "run"), method, settings, tiles))
    return file


@pytest.fixture(scope="module", params=DETECTORS)
def exported(place, request):
    """A saved detector, PatchCore with tiles and weighted scores, and its graph."""
    file = fitted(place, request.param, *DETECTORS[request.param])
    return file, export(file, "onnx")


def photographs(place):
    return sorted((place / "tile/test").rglob("*.png"))


def squares(place, size):
    return torch.cat(list(batches(photographs(place), size, 8, 0)))


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_graph_equals_the_detector_in_batches_of_any_size(place, exported):
    detector, extractor, about = load_detector(exported[0])
    images = squares(place, extractor.image_size)
    scores, maps = (result.numpy() for result in detector(extractor(images)))
    session = onnxruntime.InferenceSession(exported[1])
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    for size in (1, 3, 8):
        parts = [pixels[first : first + size] for first in range(0, 8, size)]
        found = [session.run(["score", "map", "above"], {"pixels": part}) for part in parts]
        score, heat, above = (np.concatenate(results) for results in zip(*found, strict=True))
        assert relative(score, scores) < TOLERANCE
        assert relative(heat, maps) < TOLERANCE
        assert above.tolist() == (scores > about["threshold"]).tolist()
        assert 0 < above.sum() < 8


def test_example_needs_no_torch_and_sees_photographs_as_we_do(place, exported, tmp_path):
    detector, extractor, about = load_detector(exported[0])
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    photos = [str(photo) for photo in photographs(place)]
    script = [sys.executable, "-c", code, str(ROOT / "examples" / "run_onnx.py"), str(exported[1]), *photos]
    printed = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    scores, _ = detector(extractor(squares(place, extractor.image_size)))
    np.testing.assert_allclose([float(line.split()[0]) for line in printed], scores, rtol=1e-4)
    assert [" above " in line for line in printed] == (scores > about["threshold"]).tolist()
    assert np.asarray(Image.open(tmp_path / "000-heat.png")).shape == (extractor.image_size, extractor.image_size, 3)


def test_metadata_says_what_it_is(exported):
    about = onnxruntime.InferenceSession(exported[1]).get_modelmeta().custom_metadata_map
    detector = json.loads(about["detector"])
    assert about["weights_sha256"] == detector["weights_sha256"]
    assert float(about["threshold"]) == detector["threshold"]
    assert json.loads(about["versions"])["torch"] == torch.__version__.split("+")[0]


def test_another_threshold(place, exported, tmp_path):
    detector, extractor, _ = load_detector(exported[0])
    images = squares(place, extractor.image_size)
    scores = detector(extractor(images))[0].numpy()
    threshold = float(np.sort(scores)[-2:].mean())
    options = ["--to", "onnx", "--out", str(tmp_path / "part.onnx"), "--threshold", str(threshold)]
    assert main(["export", str(exported[0]), *options]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx")
    (above,) = session.run(["above"], {"pixels": images.permute(0, 2, 3, 1).contiguous().numpy()})
    assert above.tolist() == (scores > threshold).tolist()
    assert above.sum() == 1
    assert float(session.get_modelmeta().custom_metadata_map["threshold"]) == threshold


def test_one_file_is_written_and_nothing_is_left_beside(exported):
    assert {file.suffix for file in exported[1].parent.glob(f"*{exported[1].stem}*")} == {".safetensors", ".onnx"}


def test_what_cannot_be_exported(place, tmp_path):
    knn = fitted(place, "knn", Settings(image_size=64))
    refusal(lambda: export(knn, "onnx"), knn, "padim or patchcore")
    rounded = fitted(place, "padim", Settings(image_size=64, padim_dims=8, feature_precision="bf16"))
    refusal(lambda: export(rounded, "onnx"), "bfloat16")
    assert not list(place.glob("*bf16*.onnx"))


def test_mistakes_of_the_command(place, exported, tmp_path, capsys):
    assert main(["export", str(exported[0]), "--to", "onnx", "--out", str(tmp_path / "graph.pt")]) == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.safetensors"), "--to", "onnx"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "package", "line"),
    [
        ("onnx", "onnxscript", "pip install 'spd-weights[export]'"),
        ("openvino", "openvino", "pip install 'spd-weights[export]' openvino"),
    ],
)
def test_missing_package_is_named_with_its_installation(monkeypatch, capsys, to, package, line):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "a.safetensors", "--to", to]) == 2
    assert capsys.readouterr().err == f"error: exporting to {to} needs {package}; run: {line}\n"


def test_graph_that_computes_something_else_is_refused():
    right = {"score": np.float32([1, 2]), "map": np.ones((2, 4, 4), np.float32)}
    _check(Path("a.onnx"), right, right)
    for name, wrong in (("score", np.float32([1, 2.001])), ("map", np.full((2, 4, 4), np.nan, np.float32))):
        with pytest.raises(SpdError, match=f"the graph's {name} differs"):
            _check(Path("a.onnx"), {**right, name: wrong}, right)


def test_nothing_is_written_if_the_graph_computes_something_else(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(SpdError, match="the graph's score differs"):
        export(fitted(place, "padim", DETECTORS["padim"][0]), "onnx", tmp_path / "out" / "part.onnx")
    assert not list((tmp_path / "out").iterdir())
