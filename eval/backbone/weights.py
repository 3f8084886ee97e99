"""Find the weights that a user names, and check that every tensor of the backbone was loaded from them."""

import difflib
import hashlib
from pathlib import Path

import huggingface_hub
import safetensors
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

import spd_weights  # noqa: F401  (registers its weights with timm)
from spd_weights.checks import CONFIG, TRAINING, WEIGHTS, check_export
from spd_weights.errors import SpdError
from spd_weights.files import sha256

from .config import check_foreign_config, fetch_hub_config

_RANDOM = "random:"


def load_backbone(weights: str, image_size: int) -> tuple[nn.Module, str | None]:
    """Build the named backbone with its weights.

    Args:
        weights: A timm model name, `hf-hub:<owner>/<repo>`, `local-dir:<folder>`, the path of a run or of its
            export, or `random:<timm model name>` for untrained weights (always the same ones).
        image_size: Side of the images in pixels (models of a fixed input size are adapted).

    Returns:
        The model in evaluation mode, and the sha256 of its safetensors file; None if there is no such file.

    Raises:
        SpdError: Unknown or unreachable weights, or a file that is damaged, incomplete or not in safetensors format.
    """
    if weights.startswith(_RANDOM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _create(weights, weights.removeprefix(_RANDOM), False, image_size).eval(), None
    folder = _local_folder(weights)
    keys = _check_export(folder) if folder else None
    if weights.startswith("hf-hub:"):
        _check_hub(weights)
    model = _create(weights, f"local-dir:{folder}" if folder else weights, True, image_size)
    _check_loaded(model, weights, keys)
    file = folder / WEIGHTS if folder else _cached_file(model)
    return model.eval(), sha256(file) if file else None


def fingerprint(backbone: nn.Module) -> str:
    """A digest of everything that a backbone's features depend on: its tensors, its modules and its preprocessing.

    Unlike the sha256 of a file it also exists for weights that were not read from a safetensors file, and it changes
    when only the mean or the deviation in config.json changes.
    """
    data = resolve_model_data_config(backbone)
    digest = hashlib.sha256(f"{backbone} {data['mean']} {data['std']}".encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _local_folder(weights: str) -> Path | None:
    """The folder that a local name refers to, or None for a name that timm resolves."""
    if weights.startswith("hf-hub:") or timm.is_model(weights):
        return None
    name = weights.removeprefix("local-dir:")
    if not name.strip():
        raise SpdError(f"weights {weights!r}: no name; give a timm model, hf-hub:<owner>/<repo> or a folder")
    folder = Path(name).expanduser()
    if (folder / "export" / CONFIG).is_file():
        return folder / "export"
    if folder.is_dir():
        return folder
    if weights.startswith("local-dir:") or folder.exists():
        raise SpdError(f"weights {weights!r}: {folder} is not a folder; name a run or its export/ folder")
    close = difflib.get_close_matches(weights, timm.list_models(), n=3)
    raise SpdError(
        f"weights {weights!r}: neither a timm model nor a folder here"
        + (f"; close timm names: {', '.join(close)}" if close else "")
        + "; a repository of the Hub is written hf-hub:<owner>/<repo>"
    )


def _check_export(folder: Path) -> set[str]:
    """Check an export's files before anything is built from them; returns the tensor names.

    Exports of this package also record a digest, which is checked; other `local-dir:` folders do not.
    """
    if (folder / TRAINING).is_file():
        check_export(folder)
    config, file = folder / CONFIG, folder / WEIGHTS
    for path in (config, file):
        if not path.is_file():
            raise SpdError(
                f"{path}: missing; an export holds config.json and {WEIGHTS} "
                "(is the training run finished? pickled checkpoints are not read)"
            )
    check_foreign_config(config, str(config))
    try:
        with safetensors.safe_open(file, framework="pt") as tensors:
            return set(tensors.keys())
    except (safetensors.SafetensorError, OSError) as error:
        raise SpdError(f"{file}: damaged safetensors file ({error}); export or copy it again") from None


def _check_hub(weights: str) -> None:
    """Check the config of a repository before timm follows it."""
    try:
        path = fetch_hub_config(weights)
    except SpdError:
        raise
    except Exception as error:  # the Hub client raises errors of many types
        raise _unloadable(weights, error, online=True) from error
    check_foreign_config(path, f"weights {weights!r}: {CONFIG}")


def _create(weights: str, name: str, pretrained: bool, image_size: int) -> nn.Module:
    # timm, the Hub client and the checkpoint filters raise errors of many types, from RuntimeError to HTTP errors.
    try:
        model = timm.create_model(name, pretrained)
        config = model.pretrained_cfg
        if config.get("fixed_input_size") and tuple(config["input_size"][1:]) != (image_size, image_size):
            model = timm.create_model(name, pretrained, img_size=image_size)
    except Exception as error:
        raise _unloadable(weights, error, online=not name.startswith("local-dir:")) from error
    return model


def _unloadable(weights: str, error: Exception, online: bool) -> SpdError:
    reason = " ".join(str(error).split())[:600]
    offline = online and isinstance(error, OSError)
    hint = "; is the Hub reachable? offline, give the path of a downloaded folder" if offline else ""
    return SpdError(f"weights {weights!r}: cannot be loaded: {reason}{hint}")


def _check_loaded(model: nn.Module, weights: str, keys: set[str] | None) -> None:
    """Refuse a network if a part of it kept its random initialisation.

    timm loads strictly only if the model's and the checkpoint's numbers of classes agree, and for some architectures
    never.
    """
    classes, declared = getattr(model, "num_classes", None), model.pretrained_cfg.get("num_classes")
    if classes != declared:
        raise SpdError(f"weights {weights!r}: made for {declared} classes, but their config builds {classes}")
    if keys is not None:
        heads = model.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        optional = tuple(f"{head}." for head in heads)
        missing = sorted(
            key
            for key in model.state_dict().keys() - keys
            if not key.endswith("num_batches_tracked") and not key.startswith(optional)
        )
        if missing:
            raise SpdError(
                f"weights {weights!r}: {len(missing)} tensors are not in the file, first {missing[0]!r}; "
                "export the backbone again under timm's own tensor names"
            )
    for key, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise SpdError(f"weights {weights!r}: tensor {key!r} contains NaN or infinity; train or export again")


def _cached_file(model: nn.Module) -> Path | None:
    """The safetensors file from which timm read a model of the Hub or of the catalog."""
    if file := model.pretrained_cfg.get("file"):
        return Path(file)
    repository, _, revision = (model.pretrained_cfg.get("hf_hub_id") or "").partition("@")
    if not repository:
        return None
    name = model.pretrained_cfg.get("hf_hub_filename") or WEIGHTS
    path = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
    return Path(path) if isinstance(path, str) and path.endswith(".safetensors") else None
