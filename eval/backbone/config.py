"""The config.json of weights that anyone may have published: checked before timm builds a network from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from spd_weights.checks import CONFIG, WEIGHTS
from spd_weights.errors import SpdError, shown
from spd_weights.files import read_json

# Keys of pretrained_cfg that make timm read other files than the weights beside the config, or read them otherwise.
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
# Arguments of timm's factory that decide how weights are loaded and what is returned, not what the architecture is.
_LOADING = frozenset(
    ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn",
     "pretrained_custom_load", "pretrained_model_args", "checkpoint_path", "cache_dir", "model_cfg", "kwargs_filter",
     "scriptable", "exportable", "no_jit", "features_only", "feature_cfg", "feature_cls", "out_indices", "pruned",
     "device", "dtype")
)  # fmt: skip


def check_foreign_config(path: Path, where: str) -> None:
    """Check that a config.json only describes an architecture and its preprocessing.

    Configs of this package's exports are checked more strictly, by `spd_weights.checks.check_config`.

    Args:
        path: The file.
        where: What the message calls it.

    Raises:
        SpdError: It is no config of a timm model, or names other weights or how to load them.
    """
    content = read_json(path)
    if "architecture" not in content:
        raise SpdError(f"{where}: names no architecture, so this is not an export; name its export/ folder")
    if problem := _problem(content):
        raise SpdError(f"{where}: {problem}; a config may only describe the network, so these weights are not used")


def fetch_hub_config(weights: str) -> Path:
    """Fetch the config and the weights of `hf-hub:<owner>/<repo>[@revision]`, from where timm will read them.

    timm falls back to a pickled file where a repository has no safetensors file; such a repository is refused.

    Returns:
        The path of its config.json.

    Raises:
        SpdError: The repository lacks one of the files.
        Exception: What huggingface_hub raises, if the repository cannot be reached.
    """
    repository, _, revision = weights.removeprefix("hf-hub:").partition("@")
    try:
        for name in (WEIGHTS, CONFIG):
            path = hf_hub_download(repository, name, revision=revision or None)
    except RemoteEntryNotFoundError:
        raise SpdError(f"weights {weights!r}: the repository has no {name}; pickled weights are not read") from None
    return Path(path)


def _problem(content: Mapping[str, Any]) -> str | None:
    architecture = content["architecture"]
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        return f"architecture {shown(architecture)!r} is unknown to timm {timm.__version__}"
    arguments, cfg = content.get("model_args", {}), content.get("pretrained_cfg", content)  # older files have one level
    for name, part in (("model_args", arguments), ("pretrained_cfg", cfg)):
        if not isinstance(part, Mapping):
            return f"{name} must be an object"
    if loading := sorted(_LOADING & arguments.keys()):
        return f"model_args must not hold {', '.join(loading)}"
    if sources := sorted(key for key in _SOURCES if cfg.get(key)):
        return f"pretrained_cfg must not hold {', '.join(sources)}"
    return None
