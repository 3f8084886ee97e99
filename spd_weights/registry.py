"""The catalog's weights as timm entrypoints; their bytes are verified before use."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg, generate_default_cfgs, model_entrypoint, register_model
from torch import nn

from spd_weights.catalog import Row, catalog_path, default_row, load_catalog
from spd_weights.errors import SpdError, shown

# timm reads this name from an entrypoint's module when the entrypoint is registered.
default_cfgs: dict[str, Any] = {}

_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "source")


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
        if not timm.is_model(of_name[0].architecture):
            warnings.warn(f"{name} is not registered: this timm lacks {of_name[0].architecture}", stacklevel=2)
            continue
        default_cfgs.update(_default_cfgs(of_name, default_row(rows, name)))
        register_model(_entrypoint(name, {row.tag: row for row in of_name}))


def _default_cfgs(rows: Iterable[Row], default: Row) -> Mapping[str, Any]:
    # The default is starred and last: timm replaces a starred tag without weights by a later tag that has some.
    ordered = sorted(rows, key=lambda row: row == default)
    return dict(generate_default_cfgs({row.name + "*" * (row == default): _cfg(row) for row in ordered}))


def _cfg(row: Row) -> dict[str, Any]:
    """The row's own headless cfg, the same whether weights are loaded or not.

    The stock cfg describes other weights, so only what the architecture fixes is taken from it.
    """
    stock = timm.get_pretrained_cfg(row.architecture)
    assert stock is not None
    own = row.preprocessing or {}
    size = tuple(own.get("input_size", stock.input_size))
    return {
        **own,
        "input_size": size,
        "hf_hub_id": f"{row.repo}@{row.revision}" if row.status == "released" else None,
        "file": str(catalog_path().parent / str(row.file)) if row.status == "bundled" else None,
        "num_classes": 0,
        "first_conv": stock.first_conv if size[0] in (1, 3) else None,  # as every export has it
        "classifier": stock.classifier,
        "fixed_input_size": stock.fixed_input_size,
        "pool_size": stock.pool_size if size == tuple(stock.input_size) else None,
        # As every export has them (`release.export`).
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "license": row.licence,
        "description": row.description,
    }


def _entrypoint(name: str, rows: Mapping[str, Row]) -> Callable[..., nn.Module]:
    architecture = next(iter(rows.values())).architecture

    def entrypoint(
        pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **kwargs: Any
    ) -> nn.Module:
        overlay = dict(pretrained_cfg_overlay or {})
        if not isinstance(pretrained_cfg, dict | PretrainedCfg):
            row = _row(name, rows, pretrained_cfg)
            # An explicit cfg, because the stock entrypoint would resolve the stock weights by its own name.
            pretrained_cfg = timm.get_pretrained_cfg(row.name)
            if pretrained and not any(overlay.get(key) for key in _SOURCES):
                overlay["file"] = _verified_file(row, kwargs.get("cache_dir"))
            if pretrained_cfg.fixed_input_size:
                kwargs.setdefault("img_size", pretrained_cfg.input_size[-1])
        model: nn.Module = model_entrypoint(architecture)(
            pretrained=pretrained, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay, **kwargs
        )
        return model

    # timm takes both from the function.
    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{architecture} with the weights of the catalog's {name} rows."
    return entrypoint


def _row(name: str, rows: Mapping[str, Row], tag: str | None) -> Row:
    tag = tag or default_cfgs[name].tags[0]
    if tag not in rows:
        raise SpdError(f"{name} has no tag '{shown(tag)}' in {catalog_path()}; it has {', '.join(rows)}")
    return rows[tag]


def _verified_file(row: Row, cache_dir: Any) -> str:
    from spd_weights.hub import weights_file  # late: importing the package needs no Hub client

    return str(weights_file(row, cache_dir))
