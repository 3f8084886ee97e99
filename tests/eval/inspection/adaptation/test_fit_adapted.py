"""`fit` adapts features where that helps, and the saved detector scores as the fitted one did."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors
from PIL import Image

from eval.detectors.methods import Settings
from eval.detectors.saved import load_detector
from eval.inspection.export import export
from eval.inspection.features import extract
from eval.inspection.fit import FitOptions, fit
from tests.eval.helpers import RANDOM

PLAIN = FitOptions(RANDOM, "patchcore", Settings(image_size=64, coreset_ratio=0.3), workers=0, adapt=False)
ADAPT = replace(PLAIN, adapt=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One pattern under light of very different strength: what good parts differ by hides small defects."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 200, (9, 9, 3), dtype=np.uint8))
    pattern = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    for index in range(40):
        light = pattern * rng.uniform(0.3, 1.25) + rng.normal(0, 1, pattern.shape)
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    return sorted(folder.iterdir())


def test_adapted_detector_is_saved_with_its_maps(parts, tmp_path):
    found = fit(parts, tmp_path / "part.safetensors", ADAPT).about["adaptation"]
    assert found["adapt"]
    assert f"{100 * found['detection']['adapted']:.1f} %" in found["note"]
    for measure, errors in ((found["detection"], 1.645), *((one, 1) for one in found["localisation"].values())):
        assert measure["adapted"] > measure["plain"] + errors * measure["error"]
    with safetensors.safe_open(tmp_path / "part.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["detector.bank", "map_0", "map_1"]
    detector, extractor, _ = load_detector(tmp_path / "part.safetensors")
    store, _ = extract(extractor, parts, "square", 0, lambda *_: None)
    plain = fit(parts, tmp_path / "plain.safetensors", PLAIN)
    assert not plain.about["adaptation"]["adapt"]
    simple, _, _ = load_detector(tmp_path / "plain.safetensors")
    features = next(store.batches(range(8)))
    assert detector(features)[0].max() > 0
    assert not np.allclose(detector(features)[0], simple(features)[0])


def test_the_same_photographs_give_the_same_verdict(parts, tmp_path):
    first, second = (fit(parts, tmp_path / "part.safetensors", ADAPT).about for _ in range(2))
    assert first["adaptation"] == second["adaptation"]
    assert first["threshold"] == second["threshold"]


def test_methods_that_were_not_measured_are_not_adapted(parts, tmp_path):
    about = fit(parts, tmp_path / "part.safetensors", replace(ADAPT, method="knn")).about
    assert about["adaptation"]["detection"] is None


def test_exported_graph_contains_the_maps(parts, tmp_path):
    """`export` refuses a graph that computes something else."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    fit(parts, tmp_path / "part.safetensors", ADAPT)
    export(tmp_path / "part.safetensors", "onnx")
    assert (tmp_path / "part.onnx").is_file()
