"""A fitted detector in one safetensors file, with what it takes to use it again."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from spd_weights.errors import SpdError

from ..backbone.features import Extractor
from .methods import METHODS, Detector, Settings

_KEY = "anomaly_detector"  # in the metadata of the safetensors file
SCHEMA = 2


def save_detector(path: Path, detector: Detector, about: dict[str, Any]) -> None:
    """Write a detector's tensors and their description, whole or not at all.

    Args:
        path: The file to write; its folder is made.
        detector: Fitted.
        about: JSON-ready, with `method`, `settings`, `seed`, `weights`, `weights_sha256` and whatever else
            is worth knowing.

    Raises:
        SpdError: The file cannot be written.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in detector.state().items()}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={_KEY: json.dumps({"schema": SCHEMA, **about})})
        os.replace(beside, path)
    except OSError as error:
        raise SpdError(f"{path}: cannot be written ({error}); choose another --save") from error
    finally:
        beside.unlink(missing_ok=True)


def load_detector(path: Path, weights: str | None = None) -> tuple[Detector, Extractor, dict[str, Any]]:
    """Read a detector and load the backbone it was fitted with.

    Args:
        path: Of `save_detector`.
        weights: Where the backbone is now, if no longer under the name recorded.

    Returns:
        The detector, its backbone, and the description.

    Raises:
        SpdError: The file is no detector or damaged, or the backbone is missing or another one.
    """
    about, tensors = _read(path)
    settings = Settings(**about["settings"])
    reductions = METHODS[about["method"]].reductions
    extractor = Extractor(weights or about["weights"], settings.image_size, reductions, settings.feature_precision)
    found, expected = extractor.sha256, about["weights_sha256"]
    if found != expected or extractor.architecture != about["architecture"]:
        raise SpdError(
            f"weights {extractor.weights!r} are not those that {path} was fitted with (sha256 "
            f"{(found or 'none')[:16]}, not {(expected or 'none')[:16]}); "
            "name the right ones with --weights, or fit again"
        )
    detector = METHODS[about["method"]].make(settings, [about["seed"]], 0)[0]
    detector.restore({name: tensor.to(extractor.device) for name, tensor in tensors.items()})
    return detector, extractor, about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise SpdError(f"{path}: no such file; python -m eval fit writes detectors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        about = json.loads(metadata.get(_KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise SpdError(f"{path}: no detector, or a damaged one ({error}); fit it again") from None
    if about.get("schema") != SCHEMA or about.get("method") not in METHODS:
        raise SpdError(f"{path}: safetensors, but no detector of this version; python -m eval fit writes them")
    known = asdict(Settings())
    if about.get("settings", {}).keys() != known.keys():
        raise SpdError(f"{path}: fitted with options of another version ({', '.join(known)} expected); fit it again")
    return about, tensors
