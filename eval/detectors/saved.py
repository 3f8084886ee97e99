"""A fitted detector in one safetensors file, together with everything needed to use it again."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from spd_weights.errors import SpdError, program
from spd_weights.files import staged

from ..backbone.tiles import AnyExtractor, tiled
from .base import Adapted, Detector
from .methods import DETECTORS, Settings, build_detectors
from .one_class import extractor_for

SCHEMA = 3
_NEEDED = ("weights", "weights_sha256", "architecture", "seed", "threshold", "map_median", "map_maximum")
_KEY = "anomaly_detector"  # in the metadata of the safetensors file


def save_detector(path: Path, detector: Detector, about: dict[str, Any]) -> None:
    """Write a detector's state and its description; the file is complete or absent.

    Args:
        path: The file to write. Its folder is created.
        detector: Fitted.
        about: Description, JSON-ready, with at least `method`, `settings`, `seed`, `weights`, `weights_sha256` and
            `architecture`.

    Raises:
        SpdError: The file cannot be written.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in detector.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as staging:
            save_file(tensors, staging, metadata={_KEY: json.dumps({"schema": SCHEMA, **about})})
    except (OSError, safetensors.SafetensorError) as error:  # the latter on a full disk
        raise SpdError(f"{path}: cannot be written ({error}); choose another --save") from error


def load_detector(path: Path, weights: str | None = None) -> tuple[Detector, AnyExtractor, dict[str, Any]]:
    """Load a saved detector and the backbone it was fitted with.

    Args:
        path: A file written by `save_detector`.
        weights: Name of the backbone, if it is no longer available under the recorded name.

    Returns:
        The detector and its backbone, both on the backbone's device, and the description.

    Raises:
        SpdError: The file is damaged or not a detector, or the backbone is missing or a different one.
    """
    about, tensors = _read(path)
    settings = Settings(**about["settings"])
    extractor = tiled(extractor_for(weights or about["weights"], [about["method"]], settings), about.get("tiles", 1))
    found, expected = extractor.sha256, about["weights_sha256"]
    if found != expected or extractor.architecture != about["architecture"]:
        raise SpdError(
            f"weights {extractor.weights!r} are not those that {path} was fitted with (sha256 "
            f"{(found or 'none')[:16]}, not {(expected or 'none')[:16]}); "
            "name the right ones with --weights, or fit again"
        )
    seen = replace(settings, image_size=extractor.image_size)
    (detector,) = build_detectors(about["method"], seen, [about["seed"]], 0)
    if about.get("adaptation", {}).get("adapt"):
        layers = extractor.layers_of(detector.reductions)
        detector = Adapted(detector, [torch.empty(0)] * len(layers))
    try:
        detector.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SpdError(f"{path}: damaged detector ({reason}); fit it again") from None
    return detector.to(extractor.device), extractor, about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise SpdError(f"{path}: no such file; {program('eval fit')} writes detectors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        about = json.loads(metadata.get(_KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise SpdError(f"{path}: damaged, or not a detector as fit writes it ({error}); fit it again") from None
    schema = about.get("schema") if isinstance(about, dict) else None
    if schema is None or (about.get("method") not in DETECTORS and schema == SCHEMA):
        raise SpdError(f"{path}: a safetensors file, but not a detector; {program('eval fit')} writes detectors")
    if schema != SCHEMA:
        raise SpdError(f"{path}: a detector in format {schema}, this version reads format {SCHEMA}; fit it again")
    if "threshold_hint" in about:  # its earlier name
        about["threshold"] = about.pop("threshold_hint")
    if missing := [key for key in _NEEDED if key not in about]:
        raise SpdError(f"{path}: damaged detector (no {', '.join(missing)}); fit it again")
    if not all(number.isfinite().all() for number in (*tensors.values(), torch.tensor(about["threshold"] or 0.0))):
        raise SpdError(f"{path}: damaged detector (numbers that are not finite); fit it again")
    known = asdict(Settings())
    if about.get("settings", {}).keys() != known.keys():
        raise SpdError(f"{path}: fitted with options of another version ({', '.join(known)} expected); fit it again")
    return about, tensors
