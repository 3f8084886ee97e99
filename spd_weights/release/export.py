"""A backbone's tensors, written as a folder that plain timm loads: `local-dir:<folder>`, or the Hub.

The weights carry no classifier, so that one file serves `num_classes=0`, `num_classes=k` and
`features_only=True`; config.json names the stock architecture, so that loading needs no code of ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.models import PretrainedCfg
from torch import nn

from spd_weights.errors import SpdError, shown
from spd_weights.files import digest_of, is_folder, read_json, replacing, sha256, write_json, write_text
from spd_weights.release import cards, golden

WEIGHTS, CONFIG, CARD, TRAINING = "model.safetensors", "config.json", "README.md", "training.json"
EXPORT_FILES = (WEIGHTS, CONFIG, CARD, TRAINING)
# Optional, shown on the card: what `python -m eval` measured, and the sheet that `python -m train --preview` draws.
RESULTS, PREVIEW = "results.json", "preview.png"

_REMEDY = "export the run again, or pull the folder again"
_CONFIG_NEEDS = ("architecture", "image_size", "in_chans", "mean", "std")


def export_backbone(
    backbone: nn.Module, directory: Path, training: Mapping[str, Any], *, tag: str | None = None, half: bool = False
) -> Path:
    """Write a backbone as an export: weights, config.json, training.json and the card.

    The folder appears complete or not at all; an earlier export of the same name is replaced.

    Args:
        backbone: A timm model made with `num_classes=0`; may be wrapped by DDP or torch.compile.
        directory: The folder to write.
        training: What is known about the run. `architecture` (the stock timm name), `image_size` (pixels),
            `in_chans`, `mean` and `std` (in [0, 1], one a channel) are needed; whatever else is missing is
            rendered as "not recorded".
        tag: What config.json calls the weights; None takes `cards.tag(training)`.
        half: Keep matrices and kernels in float16, half the bytes; vectors (batch norm's) stay float32.

    Returns:
        The folder.

    Raises:
        SpdError: A tensor is missing, surplus, misshapen or not finite; `training` lacks what config.json
            needs; or the folder holds files that are not an export's.
    """
    if missing := [key for key in _CONFIG_NEEDS if training.get(key) is None]:
        raise SpdError(f"cannot export to {directory}: the training record lacks {', '.join(missing)}")
    tensors = _portable(backbone.state_dict(), half)
    config = _timm_config(training, tag or cards.tag(training))
    where = f"the backbone to export to {directory}"
    config["spd"]["golden"] = golden.measure(_check_tensors(tensors, config, where), config)
    if not all(math.isfinite(stage["norm"]) for stage in config["spd"]["golden"]):
        raise SpdError(f"{where} gives features that are not finite: the training diverged")
    with replacing(Path(directory), known=(*EXPORT_FILES, RESULTS, PREVIEW)) as beside:
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        config["spd"]["sha256"] = sha256(beside / WEIGHTS)
        write_json(beside / CONFIG, config)
        write_json(beside / TRAINING, dict(training))
        write_text(beside / CARD, cards.render(read_json(beside / TRAINING)))
        check_export(beside)
    return Path(directory)


def check_export(directory: Path) -> dict[str, Any]:
    """Verify an export: every file, weights that fit the architecture exactly, a config that timm accepts.

    Args:
        directory: The export.

    Returns:
        The content of its config.json.

    Raises:
        SpdError: Names the file that is wrong and what to do.
    """
    directory = Path(directory)
    if not is_folder(directory):
        raise SpdError(f"{shown(directory)} is not a folder; give the export/ folder of a run")
    for name in EXPORT_FILES:
        if not (directory / name).is_file():
            raise SpdError(f"{directory / name} is missing; {_REMEDY}")
    config = read_json(directory / CONFIG)
    _check_config(config, directory / CONFIG)
    if read_json(directory / TRAINING).get("architecture") != config["architecture"]:
        raise SpdError(f"{directory / TRAINING} names another architecture than {CONFIG}; {_REMEDY}")
    weights = directory / WEIGHTS
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise SpdError(f"{weights} is not a readable safetensors file ({error}); {_REMEDY}") from error
    model = _check_tensors(tensors, config, where=str(weights))
    expected, found = config["spd"]["sha256"], sha256(weights)
    if expected != found:
        raise SpdError(
            f"{weights} is not the file that {CONFIG} describes: expected sha256 {expected}, found {found}; {_REMEDY}"
        )
    _check_features(model, config, weights)
    try:
        ModelCard((directory / CARD).read_text(encoding="utf-8"))
    except Exception as error:  # yaml and huggingface_hub raise kinds of their own
        remedy = f"run: spd-weights card {directory}"
        raise SpdError(f"{directory / CARD} is not a model card: {error}; {remedy}") from error
    return config


def keys_digest(weights: Path) -> str:
    """The sha256 of every tensor's name and shape: `conv1.weight 64,3,7,7`, a line each, sorted."""
    with safe_open(weights, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
    lines = sorted(f"{key} {','.join(map(str, shape))}\n" for key, shape in shapes.items())
    return digest_of("".join(lines).encode())


def _check_features(model: nn.Module, config: Mapping[str, Any], weights: Path) -> None:
    """Let the weights answer to the test picture as they did when they were exported."""
    try:
        problem = golden.difference(config["spd"]["golden"], golden.measure(model, config))
    except (KeyError, TypeError) as error:
        raise SpdError(f"{weights.with_name(CONFIG)} lacks or misuses {error} in spd.golden; {_REMEDY}") from error
    if problem:
        raise SpdError(
            f"{weights} holds the right bytes and gives other features here than where it was exported: {problem} "
            f"(relative tolerance {golden.TOLERANCE:g}). Either {CONFIG} was edited (mean, std, input_size), or this "
            f"installation computes wrongly: install torch {torch.__version__} and timm {timm.__version__} again"
        )


def _portable(state: Mapping[str, torch.Tensor], half: bool) -> dict[str, torch.Tensor]:
    """Undo wrappers' key prefixes and devices; floating tensors become float32, or float16 from two axes on."""
    portable = {}
    for key, value in state.items():
        parts = [part for part in key.split(".") if part != "_orig_mod"]
        while parts[0] == "module":
            parts.pop(0)
        dtype = torch.float16 if half and value.ndim > 1 else torch.float32
        dtype = dtype if value.is_floating_point() else value.dtype
        # A clone, because safetensors refuses tensors that share memory.
        portable[".".join(parts)] = value.detach().to("cpu", dtype).contiguous().clone()
    return portable


def _timm_config(training: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """Build config.json from the stock cfg's structure and the run's own facts.

    A stock cfg's tag, licence, url and test-time sizes describe other weights, so nothing is inherited but
    what the architecture fixes: first convolution, classifier, whether the input size is fixed.
    """
    architecture, size, channels = training["architecture"], training["image_size"], training["in_chans"]
    stock = _stock_cfg(architecture, where="the training record")
    # Without num_classes, which transformers' TimmWrapper passes itself; timm takes it from pretrained_cfg.
    model_args = {"in_chans": channels}
    if stock["fixed_input_size"]:
        model_args["img_size"] = size
    pretrained_cfg = {
        "tag": tag,
        "license": training.get("licence"),
        "description": cards.title(training),
        "paper_ids": cards.PAPER_ID,
        "custom_load": False,
        "input_size": [channels, size, size],
        "fixed_input_size": stock["fixed_input_size"],
        "test_input_size": None,
        "interpolation": "bilinear",
        # Our choice, because a defect may lie outside a centre crop: the whole picture, resized.
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(training["mean"]),
        "std": list(training["std"]),
        "num_classes": 0,
        "pool_size": stock["pool_size"] if stock["input_size"][1:] == (size, size) else None,
        "first_conv": stock["first_conv"],
        "classifier": stock["classifier"],
    }
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": _headless(architecture, model_args).num_features,
        "model_args": model_args,
        "pretrained_cfg": pretrained_cfg,
        # timm refuses unknown keys inside pretrained_cfg and ignores them here.
        "spd": {
            "schema": 1,
            "method": training.get("method"),
            "spd_weight": training.get("spd_weight"),
            "data": (training.get("data") or {}).get("name"),
        },
    }


def _stock_cfg(architecture: str, where: str) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if cfg is None:
        raise SpdError(f"{where} names the architecture {architecture!r}, unknown to timm {timm.__version__}")
    return dataclasses.asdict(cfg)


def _headless(architecture: str, model_args: Mapping[str, Any]) -> nn.Module:
    return timm.create_model(architecture, pretrained=False, **{"num_classes": 0, **model_args})


def _check_config(config: Any, path: Path) -> None:
    """Check what timm would only trip over later, or not at all."""
    try:
        _stock_cfg(config["architecture"], where=str(path))
        cfg, args, digest = config["pretrained_cfg"], config["model_args"], config["spd"]["sha256"]
        channels = (len(cfg["mean"]), len(cfg["std"]), cfg["input_size"][0], args["in_chans"])
        classes = {config["num_classes"], cfg["num_classes"], args.get("num_classes", 0)}
        unknown = sorted(set(cfg) - {field.name for field in dataclasses.fields(PretrainedCfg)})
        problems = {
            f"timm refuses the keys {unknown} inside pretrained_cfg": unknown,
            "num_classes must be 0 throughout": classes != {0},
            "mean, std, input_size and in_chans disagree on the channels": len(set(channels)) > 1,
            "pretrained_cfg has no tag of its own": not cfg["tag"],
            "spd.sha256 is not a sha256": len(digest) != 64,
        }
    except (KeyError, TypeError) as error:
        raise SpdError(f"{path} lacks or misuses {error}; {_REMEDY}") from error
    for problem, found in problems.items():
        if found:
            raise SpdError(f"{path}: {problem}; {_REMEDY}")


def _check_tensors(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], where: str) -> nn.Module:
    """Load strictly into a fresh stock model, which is what every user will do; return the model."""
    architecture = config["architecture"]
    try:
        model = _headless(architecture, config["model_args"])
        model.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:600]
        raise SpdError(f"{where} does not fit a headless timm {architecture}: {detail}") from error
    for key, value in model.state_dict().items():
        # Halves, as in a bundled file, are widened without loss; anything else would be cast silently.
        if tensors[key].dtype not in {value.dtype, torch.float16 if value.is_floating_point() else value.dtype}:
            raise SpdError(f"{where} holds {tensors[key].dtype} in {key}, not {value.dtype}; {_REMEDY}")
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise SpdError(f"{where} holds values that are not finite in {key}: the training diverged")
    return model
