"""Models from a name or a folder, alike for every timm version that is supported."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from spd_weights.release.export import WEIGHTS

_LOCAL = "local-dir:"


def create_model(name: str, pretrained: bool = True, **options: Any) -> nn.Module:
    """Call `timm.create_model`, but let `local-dir:` take ~, and read safetensors before timm 1.0.26, too.

    Args:
        name: Whatever timm takes: a model name, hf-hub:owner/name, local-dir:folder.
        pretrained: Load the weights.
        options: timm's.

    Raises:
        Exception: Whatever timm, the Hub's client and safetensors raise.
    """
    if name.startswith(_LOCAL):
        folder = Path(name.removeprefix(_LOCAL)).expanduser()
        name = f"{_LOCAL}{folder}"
        if pretrained and (folder / WEIGHTS).is_file():
            options["pretrained_cfg_overlay"] = {"source": "", "file": str(folder / WEIGHTS)}
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model
