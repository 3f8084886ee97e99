"""What an export consists of, and the checks that it must pass before anything is built from it.

An export is a folder that plain timm loads (`local-dir:<folder>`, or from the Hub). It may come from anyone, so its
config.json is data: only keys that describe an architecture reach timm, and nothing is unpickled. These checks compare
an export with its own config.json; `hub` compares downloads with the digests that the catalog pins.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from timm.models import PretrainedCfg, model_entrypoint
from torch import nn

from spd_weights import golden
from spd_weights.errors import SpdError, reason, shown
from spd_weights.files import is_folder, read_json, sha256

WEIGHTS, CONFIG, CARD, TRAINING = "model.safetensors", "config.json", "README.md", "training.json"
EXPORT_FILES = (WEIGHTS, CONFIG, CARD, TRAINING)
# Optional, shown on the card: what `python -m eval` measured, and the sheet that `python -m train --preview` draws.
RESULTS, PREVIEW, CHART = OPTIONAL_FILES = ("results.json", "preview.png", "chart.svg")

MODEL_ARGS = ("in_chans", "img_size", "num_classes")
"""The only arguments that a config.json may pass to `timm.create_model`: they describe the architecture."""

SMALL_FILE = 1 << 20
"""Bytes that config.json, training.json and the card may each have (our choice: a hundred times what they need)."""

# Fields of timm's pretrained_cfg that name other weights or a loader, or cut rows off the classifier.
_NO_CFG_KEYS = {
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "custom_load",
    "label_offset",
}  # fmt: skip
_CFG_KEYS = frozenset(field.name for field in dataclasses.fields(PretrainedCfg)) - _NO_CFG_KEYS
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
_CROP_MODES = ("squash", "center", "border")
_MAX_SIZE, _MAX_CHANNELS = 2048, 64  # our choice: far above any timm model, and small enough to allocate
_REMEDY = "export the run again, or pull the folder again"


def check_export(directory: Path) -> dict[str, Any]:
    """Verify an export, as `load_export` does; returns the content of its config.json."""
    return load_export(directory)[0]


def load_export(directory: Path) -> tuple[dict[str, Any], nn.Module]:
    """Verify an export: every file, a config that only describes, weights that fit the architecture exactly.

    Args:
        directory: The export.

    Returns:
        The content of its config.json, and the model with its weights.

    Raises:
        SpdError: Names the file that is wrong and the remedy.
    """
    directory = Path(directory)
    if not is_folder(directory):
        raise SpdError(f"{shown(directory)} is not a folder; give the export/ folder of a run")
    for name in EXPORT_FILES:
        if not (directory / name).is_file():
            raise SpdError(f"{directory / name} is missing; {_REMEDY}")
        if name != WEIGHTS and (directory / name).stat().st_size > SMALL_FILE:
            raise SpdError(f"{directory / name} is larger than {SMALL_FILE} bytes; {_REMEDY}")
    config = read_json(directory / CONFIG)
    check_config(config, directory / CONFIG)
    if read_json(directory / TRAINING).get("architecture") != config["architecture"]:
        raise SpdError(f"{directory / TRAINING} names another architecture than {CONFIG}; {_REMEDY}")
    weights = directory / WEIGHTS
    model = check_tensors(_read_tensors(weights), config, where=str(weights))
    expected, found = config["spd"]["sha256"], sha256(weights)
    if expected != found:
        raise SpdError(
            f"{weights} is not the file that {CONFIG} describes: expected sha256 {expected}, found {found}; {_REMEDY}"
        )
    _check_features(model, config, weights)
    _check_card(directory / CARD)
    return config, model


def _check_card(path: Path) -> None:
    try:
        # One newline for several: the client's regular expression takes quadratic time on them.
        ModelCard(re.sub(r"[\r\n]+", "\n", path.read_text(encoding="utf-8")))
    except Exception as error:  # yaml and huggingface_hub raise errors of many kinds
        raise SpdError(f"{path} is not a model card ({reason(error)}); run spd-weights card {path.parent}") from error


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Check that a config.json describes a headless timm model and does nothing else.

    Args:
        config: Its content.
        path: Where it lies, for the message.

    Raises:
        SpdError: Names the field that is wrong.
    """
    problem = (
        _architecture_problem(config)
        or _args_problem(config.get("model_args"))
        or _cfg_problem(config.get("pretrained_cfg"), config["model_args"]["in_chans"])
        or _use_problem(config["pretrained_cfg"], config["architecture"])
        or _spd_problem(config.get("spd"))
    )
    if problem:
        raise SpdError(f"{path}: {problem}; {_REMEDY}")


def check_tensors(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], where: str) -> nn.Module:
    """Load tensors strictly into a fresh stock model, which is what every user will do.

    Args:
        tensors: The weights.
        config: A checked config.json.
        where: What the message calls the weights.

    Returns:
        The model.

    Raises:
        SpdError: A tensor is missing, surplus, of another shape or dtype, or not finite.
    """
    architecture = config["architecture"]
    _check_size(tensors, config, where)
    model = build_headless(architecture, config["model_args"], where)
    try:
        model.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise SpdError(f"{where} does not fit a headless timm {architecture}: {reason(error, 600)}") from error
    for key, value in model.state_dict().items():
        # float16, as in a bundled file, is widened without loss; any other dtype would be cast silently.
        if tensors[key].dtype not in {value.dtype, torch.float16 if value.is_floating_point() else value.dtype}:
            raise SpdError(f"{where} holds {tensors[key].dtype} in {key}, not {value.dtype}; {_REMEDY}")
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise SpdError(f"{where} holds values that are not finite in {key}: the training diverged")
    return model


def _check_size(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], where: str) -> None:
    """Refuse a small file whose config names a huge architecture, before memory is allocated for that."""
    try:
        with torch.device("meta"):
            model = build_headless(config["architecture"], config["model_args"], where)
    except SpdError:  # an architecture that the meta device does not support, or arguments that are refused next
        return
    needed, found = (sum(value.numel() for value in each.values()) for each in (model.state_dict(), tensors))
    if needed > 2 * found:
        raise SpdError(f"{where} does not fit {config['architecture']}: {found} values, not {needed}; {_REMEDY}")


def build_headless(architecture: str, model_args: Mapping[str, Any], where: str) -> nn.Module:
    """Build an untrained timm model without classifier.

    Raises:
        SpdError: timm cannot build it with these arguments.
    """
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=False, **{"num_classes": 0, **model_args})
    except Exception as error:  # architectures raise different errors for sizes they do not support
        raise SpdError(
            f"{where}: timm cannot build {architecture} with {shown(dict(model_args))} ({reason(error)})"
        ) from error
    return model


def stock_cfg(architecture: str, where: str) -> dict[str, Any]:
    """The pretrained_cfg that timm has for an architecture; SpdError if timm does not know it."""
    cfg = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if cfg is None:
        raise SpdError(f"{where} names the architecture {architecture!r}, unknown to timm {timm.__version__}")
    return dataclasses.asdict(cfg)


def _read_tensors(weights: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(weights)
    except Exception as error:  # for a type that this torch lacks, safetensors raises errors of many kinds
        raise SpdError(f"{weights} is not a readable safetensors file ({reason(error, 300)}); {_REMEDY}") from error
    return tensors


def _check_features(model: nn.Module, config: Mapping[str, Any], weights: Path) -> None:
    """Compare the response to the test image with the one at export."""
    try:
        problem = golden.difference(config["spd"]["golden"], golden.measure(model, config))
    except Exception as error:  # an input size that this architecture cannot take fails somewhere inside it
        raise SpdError(
            f"{weights.with_name(CONFIG)}: the features cannot be measured ({reason(error)}); {_REMEDY}"
        ) from error
    if problem:
        raise SpdError(
            f"{weights} holds the right bytes but gives other features here than where it was exported: {problem} "
            f"(relative tolerance {golden.TOLERANCE:g}). Either {CONFIG} was edited (mean, std, input_size), or this "
            f"installation computes wrongly: reinstall torch {torch.__version__} and timm {timm.__version__}"
        )


def _architecture_problem(config: Mapping[str, Any]) -> str | None:
    name = config.get("architecture")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]{1,100}", name) or not timm.is_model(name):
        return f"names the architecture {shown(repr(name))}, unknown to timm {timm.__version__}"
    if not model_entrypoint(name).__module__.startswith("timm."):
        return f"names {name}, which plain timm lacks, instead of the stock architecture"
    if not _is_int(config.get("num_classes"), 0, 0):
        return "num_classes must be 0"
    return None


def _args_problem(args: Any) -> str | None:
    if not isinstance(args, Mapping):
        return "model_args must be an object"
    if unknown := sorted(set(args) - set(MODEL_ARGS)):
        return f"model_args may hold {', '.join(MODEL_ARGS)}, not {shown(', '.join(unknown))}"
    if not _is_int(args.get("in_chans"), 1, _MAX_CHANNELS):
        return f"model_args.in_chans must be a whole number from 1 to {_MAX_CHANNELS}"
    if not _is_int(args.get("img_size", 1), 1, _MAX_SIZE):
        return f"model_args.img_size must be a whole number from 1 to {_MAX_SIZE}"
    return None if _is_int(args.get("num_classes", 0), 0, 0) else "num_classes must be 0 throughout"


def _cfg_problem(cfg: Any, channels: int) -> str | None:
    if not isinstance(cfg, Mapping):
        return "pretrained_cfg must be an object"
    # timm refuses unknown keys.
    if unknown := sorted(key for key in set(cfg) - _CFG_KEYS if key != "custom_load" or cfg[key] is not False):
        return f"pretrained_cfg must not hold {shown(', '.join(unknown))}"
    if not _is_int(cfg.get("num_classes"), 0, 0):
        return "num_classes must be 0 throughout"
    if not isinstance(cfg.get("tag"), str) or not cfg["tag"]:
        return "pretrained_cfg has no tag of its own"
    if not isinstance(cfg.get("fixed_input_size"), bool):
        return "pretrained_cfg.fixed_input_size must be true or false"
    size = cfg.get("input_size")
    if not isinstance(size, list) or len(size) != 3 or not all(_is_int(side, 1, _MAX_SIZE) for side in size):
        return f"pretrained_cfg.input_size must be three whole numbers from 1 to {_MAX_SIZE}"
    for key in ("mean", "std"):
        if not isinstance(cfg.get(key), list) or not all(_is_number(value) for value in cfg[key]):
            return f"pretrained_cfg.{key} must be a list of numbers"
    if {len(cfg["mean"]), len(cfg["std"]), size[0]} != {channels}:
        return "mean, std, input_size and in_chans disagree on the channels"
    return None


def _use_problem(cfg: Mapping[str, Any], architecture: str) -> str | None:
    """Check the fields by which timm alters tensors while it loads them, and prepares images afterwards."""
    stock = timm.get_pretrained_cfg(architecture)
    for key in ("first_conv", "classifier"):
        if cfg.get(key) is not None and _as_list(cfg[key]) != _as_list(getattr(stock, key, None)):
            return f"pretrained_cfg.{key} must be the one of {architecture}, or null"
    if stock is not None and cfg["fixed_input_size"] != stock.fixed_input_size:
        return f"pretrained_cfg.fixed_input_size must be the one of {architecture}"
    if cfg.get("first_conv") is not None and cfg["input_size"][0] not in (1, 3):
        return "pretrained_cfg.first_conv must be null: timm 1.0.26 would not load that layer's weights"
    if cfg.get("interpolation", "bilinear") not in _INTERPOLATIONS or cfg.get("crop_mode", "center") not in _CROP_MODES:
        return "pretrained_cfg names an interpolation or crop_mode that timm lacks"
    # A small share would resize images to a large multiple before the crop.
    if not _is_number(cfg.get("crop_pct", 1)) or not 0.1 <= cfg.get("crop_pct", 1) <= 1:
        return "pretrained_cfg.crop_pct must be a number from 0.1 to 1"
    return None


def _as_list(names: Any) -> list[Any]:
    return list(names) if isinstance(names, (list, tuple)) else [names]


def _spd_problem(spd: Any) -> str | None:
    if not isinstance(spd, Mapping):
        return "spd must be an object"
    if not isinstance(spd.get("sha256"), str) or not re.fullmatch(r"[0-9a-f]{64}", spd["sha256"]):
        return "spd.sha256 is not a sha256"
    stages = spd.get("golden")
    sound = isinstance(stages, list) and all(
        isinstance(stage, Mapping)
        and isinstance(stage.get("stage"), str)
        and isinstance(stage.get("shape"), list)
        and all(_is_int(side, 1, 10**6) for side in stage["shape"])
        and _is_number(stage.get("mean"))
        and _is_number(stage.get("norm"))
        for stage in stages
    )
    return None if sound else "spd.golden must list stages with stage, shape, mean and norm"


def _is_int(value: Any, minimum: int, maximum: int) -> bool:
    return type(value) is int and minimum <= value <= maximum


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e38 < value < 1e38  # false for NaN and infinity
