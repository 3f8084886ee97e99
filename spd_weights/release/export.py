"""A trained backbone as an export: a folder that plain timm loads with `local-dir:<folder>`, or from the Hub.

The weights carry no classifier, so that one file serves `num_classes=0`, `num_classes=k` and `features_only=True`.
config.json names the stock architecture, so that loading needs no code of this package.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from spd_weights import golden
from spd_weights.checks import (
    CARD,
    CONFIG,
    EXPORT_FILES,
    OPTIONAL_FILES,
    TRAINING,
    WEIGHTS,
    build_headless,
    check_export,
    check_tensors,
    stock_cfg,
)
from spd_weights.errors import SpdError
from spd_weights.files import read_json, replacing, sha256, write_json, write_text
from spd_weights.release import cards

_CONFIG_NEEDS = ("architecture", "image_size", "in_chans", "mean", "std")


def export_backbone(
    backbone: nn.Module, directory: Path, training: Mapping[str, Any], *, tag: str | None = None, half: bool = False
) -> Path:
    """Write a backbone as an export: weights, config.json, training.json and the card.

    The folder appears complete or not at all; an earlier export of the same name is replaced.

    Args:
        backbone: A timm model made with `num_classes=0`; may be wrapped by DDP or torch.compile.
        directory: The folder to write.
        training: What is known about the run. Required: `architecture` (the stock timm name), `image_size` (pixels),
            `in_chans`, `mean` and `std` (in [0, 1], one per channel). Anything else that is missing is rendered as
            "not recorded".
        tag: What config.json calls the weights; None takes `cards.tag(training)`.
        half: Store matrices and kernels in float16, which halves the file; vectors (batch norm) stay float32.

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
    model = check_tensors(tensors, config, where)
    config["spd"]["golden"] = golden.measure(model, config)
    if not all(math.isfinite(stage["norm"]) for stage in config["spd"]["golden"]):
        raise SpdError(f"{where} gives features that are not finite: the training diverged")
    with replacing(Path(directory), known=(*EXPORT_FILES, *OPTIONAL_FILES)) as beside:
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        config["spd"]["sha256"] = sha256(beside / WEIGHTS)
        write_json(beside / CONFIG, config)
        write_json(beside / TRAINING, {**training, "health": golden.health(model, config)})
        write_text(beside / CARD, cards.render(read_json(beside / TRAINING)))
        check_export(beside)
    return Path(directory)


def _portable(state: Mapping[str, torch.Tensor], half: bool) -> dict[str, torch.Tensor]:
    """Strip wrappers' key prefixes and devices; cast floats to float32, or kernels and matrices to float16."""
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
    """Build config.json from the run's facts and what the architecture fixes.

    The stock cfg's tag, licence, url and test-time sizes describe other weights. Only the first convolution, the
    classifier and whether the input size is fixed are taken from it.
    """
    architecture, size, channels = training["architecture"], training["image_size"], training["in_chans"]
    stock = stock_cfg(architecture, where="the training record")
    # Without num_classes: transformers' TimmWrapper passes it itself, and timm takes it from pretrained_cfg.
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
        # Our choice, because a defect may lie outside a centre crop: resize the whole image.
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(training["mean"]),
        "std": list(training["std"]),
        "num_classes": 0,
        "pool_size": stock["pool_size"] if stock["input_size"][1:] == (size, size) else None,
        # timm 1.0.26 adapts the weights of this layer for all but 3 channels, and fails for all but 1.
        "first_conv": stock["first_conv"] if channels in (1, 3) else None,
        "classifier": stock["classifier"],
    }
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": build_headless(architecture, model_args, "the training record").num_features,
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
