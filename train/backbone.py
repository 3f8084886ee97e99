"""The backbone that a run trains: any timm model, with or without starting weights."""

import timm
from torch import nn

import spd_weights  # noqa: F401  (registers its names with timm, so that --model.init can be one of them)
from spd_weights.errors import SpdError

from .config import Config


def make_backbone(config: Config) -> nn.Module:
    """Build the backbone without a classifier: (B, 3, S, S) to pooled features (B, F).

    Raises:
        SpdError: timm does not know the architecture, it does not support activation checkpointing, or the
            starting weights do not exist or do not fit.
    """
    backbone = _initialised(config)
    if config.model.checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError):  # how timm's models say so
            raise SpdError(f"--model.checkpointing: {config.model.arch} cannot recompute its activations") from None
    return backbone


def _initialised(config: Config) -> nn.Module:
    arch, init = config.model.arch, config.model.init
    if not timm.is_model(arch):
        close = ", ".join(timm.list_models(f"*{arch.split('_')[0]}*")[:8])
        hint = f"did you mean: {close}" if close else "timm.list_models() lists them"
        raise SpdError(f"--model.arch {arch}: timm {timm.__version__} has no such model; {hint}")
    options: dict[str, object] = {"num_classes": 0}
    if timm.get_pretrained_cfg(arch).fixed_input_size:
        options["img_size"] = config.data.image_size
    try:
        if init == "none":
            return _from_scratch(arch, config.model.zero_init_residual, options)
        if init == "timm":
            return timm.create_model(arch, pretrained=True, **options)
        backbone, start = timm.create_model(arch, **options), _start(init, options)
        _refuse_unfitting(config, backbone, start)
        backbone.load_state_dict(start.state_dict())
        return backbone
    except SpdError:
        raise
    except Exception as error:  # timm, huggingface_hub and safetensors raise many kinds
        raise SpdError(f"--model.arch {arch} --model.init {init}: {error}") from error


def _start(init: str, options: dict[str, object]) -> nn.Module:
    try:
        return timm.create_model(init, pretrained=True, **options)
    except TypeError:  # an architecture without `img_size`: not the one asked for, so it is refused by name
        return timm.create_model(init, pretrained=True, num_classes=0)


def _refuse_unfitting(config: Config, backbone: nn.Module, start: nn.Module) -> None:
    ours, theirs = ({name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (backbone, start))
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        raise SpdError(
            f"--model.init {config.model.init} holds weights of {start.pretrained_cfg['architecture']}, which do not "
            f"fit --model.arch {config.model.arch}: {len(differing)} tensors differ, the first is {differing[0]}; set "
            f"--model.arch to the architecture of the weights"
        )


def _from_scratch(arch: str, zero_init_residual: bool, options: dict[str, object]) -> nn.Module:
    if not zero_init_residual:
        try:
            return timm.create_model(arch, zero_init_last=False, **options)
        except TypeError:  # an architecture without this option, which does not start branches at zero
            pass
    return timm.create_model(arch, **options)
