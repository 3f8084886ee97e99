"""Exported detectors on 100 photographs, with every bundled backbone and three others, in every runtime installed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.data.images import batches
from eval.detectors.saved import load_detector
from eval.inspection.export import TOLERANCE, export
from eval.inspection.fit import FitOptions, fit
from tests.eval.helpers import SHARED

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
VISA = SHARED / "visa"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VISA.is_dir(), reason=f"{VISA} is not there"),
]
BUNDLED = Path(__file__).parents[3] / "spd_weights" / "bundled"
WEIGHTS = [
    *(folder.name for folder in BUNDLED.iterdir() if (folder / "model.safetensors").is_file()),
    *(f"local-dir:{folder}" for folder in sorted((SHARED / "init").glob("*")) if folder.is_dir()),
]


def photographs():
    """50 of each object, half of them with defects."""
    folders = [
        VISA / name / "Data" / "Images" / kind for name in ("fryum", "capsules") for kind in ("Normal", "Anomaly")
    ]
    return [file for folder in folders for file in sorted(folder.iterdir())[-25:]]


def onnx(file: Path) -> Callable:
    session = onnxruntime.InferenceSession(file)
    return lambda pixels: session.run(["score", "map"], {"pixels": pixels})


def openvino(file: Path) -> Callable:
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: [compiled(pixels)[name] for name in ("score", "map")]


RUNTIMES = [onnx, *([openvino] if importlib.util.find_spec("openvino") else [])]


@pytest.mark.parametrize("method", ["padim", "patchcore"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda name: Path(name).name)
def test_scores_and_maps_of_100_photographs_are_the_detectors(tmp_path, weights, method):
    file = tmp_path / "fryum.safetensors"
    fit(sorted((VISA / "fryum/Data/Images/Normal").iterdir())[:20], file, FitOptions(weights, method, workers=0))
    detector, extractor, _ = load_detector(file)
    graphs = [runtime(export(file, runtime.__name__)) for runtime in RUNTIMES]
    squares = list(batches(photographs(), extractor.image_size, 10, 0))
    pixels = [images.permute(0, 2, 3, 1).contiguous().numpy() for images in squares]
    expected = joined([result.numpy() for result in detector(extractor(images))] for images in squares)
    assert len(expected[0]) == 100
    for run in graphs:
        for ours, theirs in zip(expected, joined(run(images) for images in pixels), strict=True):
            assert np.abs(theirs - ours).max() <= TOLERANCE * np.abs(ours).max()


def joined(batches_of_results):
    """Scores and maps of all photographs."""
    return [np.concatenate(parts) for parts in zip(*batches_of_results, strict=True)]
