"""Export a saved detector as one graph that runs without this package and without torch."""

import importlib.util
import io
import json
import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.images import normalized

from ..backbone.tiles import AnyExtractor
from ..detectors.base import Detector
from ..detectors.saved import load_detector

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
METHODS = ("padim", "patchcore")
TOLERANCE = 1e-4
"""Largest difference from the detector's own scores and maps, relative to the largest score and map value."""

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_OUTPUTS = ("score", "map", "above")
_OPSET = 18
_LARGEST = 2**31 - 2**20  # bytes: protobuf's limit, with room for the graph itself

Results = dict[str, np.ndarray]  # by output


class _Graph(nn.Module):
    """Everything between the pixels and the verdict: normalisation, backbone, detector, threshold."""

    def __init__(self, extractor: AnyExtractor, detector: Detector, threshold: float) -> None:
        super().__init__()
        self.network, self.detector = extractor.network, detector
        self._extractor, self._threshold = extractor, threshold
        self.register_buffer("mean", extractor.mean)
        self.register_buffer("std", extractor.std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inspect a batch.

        Args:
            pixels: RGB, uint8 [B, S, S, 3].

        Returns:
            Scores, float32 [B]; maps, float32 [B, S, S]; whether each score is above the threshold, bool [B].
        """
        images = normalized(pixels.permute(0, 3, 1, 2), self.mean, self.std)
        features = self._extractor.select(self._extractor.maps(images), self.detector.reductions)
        score, maps = self.detector(features)
        return score, maps, score > self._threshold


def export(
    path: Path, to: str, out: Path | None = None, weights: str | None = None, threshold: float | None = None
) -> Path:
    """Export a saved detector, and check on noise that the graph computes the same.

    The input is `pixels`, RGB, uint8 [B, S, S, 3], for any B: a photograph resized by `read_image`. Resizing is not
    part of the graph, because runtimes disagree about it (docs/export.md). The outputs are those of `_Graph`.

    Args:
        path: The saved detector.
        to: One of `FORMATS`.
        out: The file to write, complete or absent; by default beside the detector.
        weights: Name of the backbone, if it is no longer available under the recorded name.
        threshold: Instead of the detector's own.

    Returns:
        The file. The weights of an OpenVINO file lie beside it, with the suffix .bin.

    Raises:
        SpdError: A package is missing, the detector cannot be exported, its graph computes something else, the file
            cannot be written, or as `load_detector`.
    """
    _check_packages(to)
    detector, extractor, about = load_detector(path, weights)
    _check_exportable(path, about, detector, extractor)
    out = out or path.with_suffix(FORMATS[to])
    if out.suffix != FORMATS[to]:
        raise SpdError(f"{out}: a file for {to} must end in {FORMATS[to]}")
    threshold = about["threshold"] if threshold is None else threshold
    if threshold is None:
        raise SpdError(f"{path}: has no threshold; name one with --threshold")
    graph = _Graph(extractor, detector, threshold).cpu().eval()
    noise = np.random.default_rng(0).integers(0, 256, (3, extractor.image_size, extractor.image_size, 3), np.uint8)
    with torch.inference_mode():  # fills caches, too, in which tracing would leave tensors without values
        expected = {name: result.numpy() for name, result in zip(_OUTPUTS, graph(torch.from_numpy(noise)), strict=True)}
    model = _onnx_model(graph, noise[:2])  # the check has another batch size
    for key, value in _metadata(about, extractor, threshold).items():
        model.metadata_props.add(key=key, value=value)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            write = _write_onnx if to == "onnx" else _write_openvino
            _check(out, write(model, Path(beside, out.name), noise), expected)
            for file in sorted(Path(beside).iterdir()):  # .bin before .xml
                os.replace(file, out.with_name(file.name))
    except OSError as error:
        raise SpdError(f"{out}: cannot be written ({error}); choose another --out") from error
    return out


def _check_packages(to: str) -> None:
    missing = [name for name in _PACKAGES[to] if importlib.util.find_spec(name) is None]
    if missing:
        packages = "'spd-weights[export]'" + (" openvino" if to == "openvino" else "")
        raise SpdError(f"exporting to {to} needs {', '.join(missing)}; run: pip install {packages}")


def _check_exportable(path: Path, about: dict[str, Any], detector: Detector, extractor: AnyExtractor) -> None:
    if about["method"] not in METHODS:
        raise SpdError(f"{path}: a {about['method']} detector cannot be exported; fit {' or '.join(METHODS)}")
    if about["settings"]["feature_precision"] == "bf16":
        raise SpdError(f"{path}: its features are bfloat16, a graph's are float32; fit it without --feature-precision")
    size = sum(
        tensor.nbytes for part in (extractor.network, detector) for tensor in (*part.parameters(), *part.buffers())
    )
    if size > _LARGEST:
        raise SpdError(
            f"{path}: {size / 2**30:.1f} GiB of tensors, but an ONNX file holds 2 GiB; fit it with fewer --padim-dims "
            "or a smaller --coreset-ratio"
        )


def _onnx_model(graph: _Graph, pixels: np.ndarray) -> Any:
    """The graph as an onnx.ModelProto, for batches of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own code
        program = torch.onnx.export(
            graph,
            (torch.from_numpy(pixels),),
            input_names=["pixels"],
            output_names=list(_OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            verbose=False,
        )
    return program.model_proto


def _metadata(about: dict[str, Any], extractor: AnyExtractor, threshold: float) -> dict[str, str]:
    """What a user of the graph must know, and where it comes from: JSON, or plain text."""
    return {
        "image_size": str(extractor.image_size),
        "resize": about["settings"]["resize"],
        "threshold": str(threshold),
        "map_range": json.dumps([about["map_median"], about["map_maximum"]]),
        "weights_sha256": str(about["weights_sha256"]),
        "detector": json.dumps(about),
        "versions": json.dumps({name: version(name) for name in ("torch", "timm", "onnx")}),
    }


def _write_onnx(model: Any, file: Path, pixels: np.ndarray) -> Results:
    """Write the graph; returns what onnxruntime computes with it."""
    import onnxruntime

    content = model.SerializeToString()
    file.write_bytes(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip(_OUTPUTS, session.run(list(_OUTPUTS), {"pixels": pixels}), strict=True))


def _write_openvino(model: Any, file: Path, pixels: np.ndarray) -> Results:
    """Write the graph; returns what OpenVINO computes with it."""
    import openvino

    core = openvino.Core()
    converted = core.read_model(io.BytesIO(model.SerializeToString()))
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, ["spd_weights", entry.key])
    openvino.save_model(converted, file, compress_to_fp16=False)
    # Without the hint, processors with bfloat16 compute in it.
    found = core.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)
    return {name: found[name] for name in _OUTPUTS}


def _check(out: Path, found: Results, expected: Results) -> None:
    for name in ("score", "map"):
        difference = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        if not difference <= TOLERANCE:
            raise SpdError(
                f"{out}: not written, because the graph's {name} differs by {difference:.1e}; report this, with the "
                "versions of torch, onnx and the runtime"
            )
