"""Checkpoints of other frameworks as exports: SimSiam, MoCo, SimCLR, lightly, solo-learn, torchvision.

Only tensors are read: safetensors, or pickles with `weights_only=True`, which runs no code from the file.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from spd_weights.environment import environment
from spd_weights.errors import SpdError, reason, shown
from spd_weights.files import sha256
from spd_weights.release.export import export_backbone

# Keys under which a checkpoint nests its tensors, and prefixes of a backbone's keys. The prefix that matches most
# keys wins.
_NESTED = ("state_dict", "model", "model_state_dict", "teacher", "student")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_PREFIXES = (
    "encoder_q.", "base_encoder.", "encoder.", "backbone.", "online_encoder.net.", "online_backbone.", "resnet.",
    "student_backbone.", "net.", "",
)  # fmt: skip
# lightly stores torchvision's ResNet as a Sequential of its children.
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class Converted:
    """The result of `convert`.

    Attributes:
        directory: The export.
        prefix: The prefix of the backbone's keys in the checkpoint.
        dropped: The keys outside the backbone: heads, projectors, momentum encoders, queues.
    """

    directory: Path
    prefix: str
    dropped: list[str]


def convert(file: Path, architecture: str, to: Path) -> Converted:
    """Convert a checkpoint to an export.

    Args:
        file: .safetensors, .pth, .pt, .ckpt or .tar.
        architecture: The stock timm architecture whose keys and shapes the backbone has.
        to: The folder to write.

    Returns:
        The folder, and the keys that were dropped.

    Raises:
        SpdError: The file cannot be read without running code, or holds no backbone of that architecture.
    """
    if not timm.is_model(architecture):
        raise SpdError(
            f"timm {timm.__version__} has no architecture {shown(repr(architecture))}; see timm.list_models()"
        )
    state = _tensors(_read(Path(file)), Path(file))
    backbone = timm.create_model(architecture, num_classes=0)
    needed = backbone.state_dict()
    prefix, renamed = _match(state, needed)
    missing = [key for key in needed if key not in renamed and not key.endswith("num_batches_tracked")]
    if missing:
        raise SpdError(
            f"{file} holds no {architecture}: {len(missing)} of {len(needed)} tensors are missing, the first is "
            f"{missing[0]}; it has {', '.join(map(shown, list(state)[:3]))}, …"
        )
    tensors = {key: state[renamed[key]] if key in renamed else value for key, value in needed.items()}
    if wrong := [key for key in needed if tensors[key].shape != needed[key].shape]:
        raise SpdError(
            f"{file} holds another architecture than {architecture}: {shown(renamed[wrong[0]])} has the shape "
            f"{tuple(tensors[wrong[0]].shape)}, not {tuple(needed[wrong[0]].shape)}"
        )
    backbone.load_state_dict(tensors)
    used = set(renamed.values())
    dropped = [key for key in state if key not in used]
    export_backbone(backbone, to, _record(Path(file), architecture, backbone))
    return Converted(Path(to), prefix, dropped)


def _read(file: Path) -> Any:
    if not file.is_file():
        raise SpdError(f"{file} is not a file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SpdError(
            f"{file} holds more than tensors, or is not a checkpoint; nothing in it was run. On the machine it comes "
            "from, save only its tensors: torch.save(checkpoint['state_dict'], …), or as safetensors"
        ) from error
    except Exception as error:  # on damaged bytes the readers raise errors of many kinds
        raise SpdError(f"{file} is not a checkpoint that torch or safetensors reads ({reason(error, 300)})") from error


def _tensors(content: Any, file: Path) -> dict[str, torch.Tensor]:
    """Collect the tensors by key, without wrappers' prefixes."""
    for _ in range(2):
        nested = [name for name in _NESTED if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
        if nested:
            content = content[nested[0]]
    if not isinstance(content, Mapping):
        raise SpdError(f"{file} holds a {type(content).__name__}, not tensors by name")
    state = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    for wrapper in (*_WRAPPERS, *_WRAPPERS):
        if state and all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _match(state: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, str]]:
    """Find the prefix that matches most of the backbone's keys; returns it, and the checkpoint's key for each."""
    best: tuple[str, dict[str, str]] = ("", {})
    for prefix in _PREFIXES:
        inside = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
        for names in (inside, {_from_sequential(name): key for name, key in inside.items()}):
            found = {key: names[key] for key in needed if key in names}
            if len(found) > len(best[1]):
                best = (prefix, found)
    return best


def _from_sequential(name: str) -> str:
    head, dot, rest = name.partition(".")
    return f"{_SEQUENTIAL.get(head, head)}{dot}{rest}"


def _record(file: Path, architecture: str, backbone: torch.nn.Module) -> dict[str, Any]:
    """The training record of foreign weights: their origin; nothing is known about their training."""
    cfg = timm.get_pretrained_cfg(architecture)
    assert cfg is not None
    channels, size = cfg.input_size[0], cfg.input_size[-1]
    return {
        "schema": 1,
        "architecture": architecture,
        "method": None,
        "spd_weight": None,
        # Our choice: ImageNet's mean and std, because all frameworks that are read here normalise with them.
        "image_size": size,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "in_chans": channels,
        "converted": {"file": file.name, "sha256": sha256(file)},
        "environment": environment(),
        "command": f"spd-weights convert {file.name} --arch {architecture}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
