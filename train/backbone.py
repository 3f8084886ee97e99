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
        backbone = timm.create_model(arch, pretrained=False, **options)
        backbone.load_state_dict(timm.create_model(init, pretrained=True, **options).state_dict())
        return backbone
    except SpdError:
        raise
    except Exception as error:  # timm, huggingface_hub and safetensors raise many kinds
        raise SpdError(f"--model.arch {arch} --model.init {init}: {error}") from error


def _from_scratch(arch: str, zero_init_residual: bool, options: dict[str, object]) -> nn.Module:
    if not zero_init_residual:
        try:
            return timm.create_model(arch, zero_init_last=False, **options)
        except TypeError:  # an architecture without this option, which does not start branches at zero
            pass
    return timm.create_model(arch, **options)
