"""The catalog's weights as timm entrypoints; their bytes are verified before use."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    model_entrypoint,
    register_model,
)
from timm.models.efficientnet import _gen_mobilenet_v2
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from spd_weights.catalog import Row, catalog_path, default_row, load_catalog
from spd_weights.errors import SpdError, shown
from spd_weights.files import read_json

# timm reads this name from the module of an entrypoint when it is registered.
default_cfgs: dict[str, Any] = {}

_OWN_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "source")


def register() -> None:
    """Register every entrypoint of the catalog with timm; a second call changes nothing.

    An unreadable catalog gives a warning, not an error: a mistake in one's own catalog must not break the import.
    The commands that read the catalog raise.
    """
    try:
        rows = load_catalog()
    except SpdError as error:
        warnings.warn(f"no SPD weights are registered with timm: {error}", stacklevel=2)
        return
    for name in dict.fromkeys(row.entrypoint for row in rows.values()):
        if timm.is_model(name) and model_entrypoint(name).__module__ == __name__:
            continue
        of_name = [row for row in rows.values() if row.entrypoint == name]
        if of_name[0].architecture not in _BUILDERS:
            known = ", ".join(_BUILDERS)
            warnings.warn(f"{name} has no timm entrypoint (there are {known}); load it by hf-hub:", stacklevel=2)
            continue
        default_cfgs.update(_default_cfgs(of_name, default_row(rows, name)))
        register_model(_entrypoint(name, {row.tag: row for row in of_name}))


def _default_cfgs(rows: Iterable[Row], default: Row) -> Mapping[str, Any]:
    # Starred and last: timm lets a later tag with weights displace a starred one without.
    ordered = sorted(rows, key=lambda row: row == default)
    cfgs = generate_default_cfgs({row.name + "*" * (row == default): _cfg(row) for row in ordered})
    return dict(cfgs)


def _cfg(row: Row) -> dict[str, Any]:
    """A headless cfg of the row's own; of the stock one only what the architecture fixes.

    Size, mean and std are what every recipe here uses by default; a release brings its own with its config.json.
    """
    stock = timm.get_pretrained_cfg(row.architecture)
    assert stock is not None
    released, bundled = row.status == "released", row.status == "bundled"
    return {
        "hf_hub_id": f"{row.repo}@{row.revision}" if released else None,
        "file": str(catalog_path().parent / str(row.file)) if bundled else None,
        "num_classes": 0,
        "first_conv": stock.first_conv,
        "classifier": stock.classifier,
        "pool_size": stock.pool_size,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "license": row.licence,
        "description": row.description,
    }


def _entrypoint(name: str, rows: Mapping[str, Row]) -> Callable[..., nn.Module]:
    architecture = next(iter(rows.values())).architecture

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            kwargs = {**_from_catalog(name, rows, kwargs), "pretrained_filter_fn": _complete}
        model: nn.Module = _BUILDERS[architecture](name, pretrained=pretrained, **kwargs)
        return model

    # timm takes both from the function.
    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{architecture} with the weights of the catalog's {name} rows."
    return entrypoint


def _from_catalog(name: str, rows: Mapping[str, Row], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Point timm at the verified local file and at the preprocessing published beside it."""
    cfg, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}
    if isinstance(cfg, dict | PretrainedCfg) or any(overlay.get(key) for key in _OWN_SOURCES):
        return kwargs  # the caller's own weights
    tag = cfg or default_cfgs[name].tags[0]
    if tag not in rows:
        raise SpdError(f"{name} has no tag '{shown(tag)}' in {catalog_path()}; there is {', '.join(rows)}")
    row = rows[tag]
    from spd_weights.hub import weights_file  # late: importing the package needs no Hub client

    weights = weights_file(row, kwargs.get("cache_dir"))
    published = _published_cfg(row, weights.with_name("config.json"))
    return {**kwargs, "pretrained_cfg_overlay": {**published, **overlay, "file": str(weights)}}


def _published_cfg(row: Row, path: Path) -> dict[str, Any]:
    config = read_json(path)
    if config.get("architecture") != row.architecture:
        raise SpdError(f"{path} describes a {config.get('architecture')}, the catalog's {row.name} another")
    return {key: value for key, value in config["pretrained_cfg"].items() if value is not None}


def _complete(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Refuse weights that would leave a layer at random.

    timm loads without strictness as soon as `num_classes` differs from the weights', and then a file that fits
    nothing loads without an error.
    """
    cfg: Any = model.pretrained_cfg
    classifier, first = cfg["classifier"], f"{cfg['first_conv']}.weight"
    wrong = [
        key
        for key, value in model.state_dict().items()
        if not key.startswith(f"{classifier}.")
        # The first convolution is adapted to in_chans by timm, afterwards.
        and (key not in state or (state[key].shape != value.shape and key != first))
    ]
    if wrong:
        raise SpdError(
            f"the weights do not fit {cfg['architecture']}: {len(wrong)} tensors are missing or misshapen, the "
            f"first is {wrong[0]}"
        )
    return state


def _resnet(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = build_model_with_cfg(ResNet, variant, pretrained, **kwargs)
    return model


# Under variant names of our own and not by the stock entrypoints, which would resolve the stock weights.
_BUILDERS: dict[str, Callable[..., Any]] = {
    "resnet18": partial(_resnet, block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": partial(_resnet, block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": partial(_resnet, block=Bottleneck, layers=(3, 4, 6, 3)),
    "wide_resnet50_2": partial(_resnet, block=Bottleneck, layers=(3, 4, 6, 3), base_width=128),
    "mobilenetv2_100": partial(_gen_mobilenet_v2, channel_multiplier=1.0),
}
