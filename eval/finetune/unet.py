"""Localisation with labels: segmentation_models_pytorch's U-Net around the backbone."""

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.losses import FocalLoss
from timm.data import resolve_model_data_config
from torch import nn

from spd_weights.errors import SpdError

from .training import Network

# The authors' suggestion for the few defect pixels; gamma is that of the focal loss's paper (arXiv 1708.02002).
focal_loss = FocalLoss("binary", gamma=2.0)


def build_unet(backbone: nn.Module, image_size: int) -> Network:
    """Build a U-Net whose encoder has the backbone's weights; its decoder's come from torch's generator.

    smp builds the encoder from timm's architecture of the same name, without weights, and those of the
    backbone are copied over, whichever way they were loaded.

    Args:
        backbone: A timm model with the weights under test; is left as it is.
        image_size: Of the images in pixels, for architectures that are built for one.

    Raises:
        SpdError: smp cannot build an encoder of this architecture, or it has tensors that the backbone lacks.
    """
    architecture = backbone.pretrained_cfg["architecture"]
    options = {"img_size": image_size} if backbone.pretrained_cfg.get("fixed_input_size") else {}
    try:
        unet = smp.Unet(f"tu-{architecture}", encoder_weights=None, classes=1, **options)
    except ValueError as error:  # above all, plain vision transformers: their features have one scale
        raise SpdError(
            f"a U-Net needs feature maps at scales 2 or 4 to 32, which {architecture} does not give ({error}); "
            "leave out --method unet"
        ) from error
    encoder = unet.encoder.model
    encoder.load_state_dict(_renamed(backbone, encoder, architecture))
    data = resolve_model_data_config(backbone)
    return Network(unet, (unet.decoder, unet.segmentation_head), data["mean"], data["std"])


def _renamed(backbone: nn.Module, encoder: nn.Module, architecture: str) -> dict:
    """The backbone's tensors under the encoder's names: timm's feature extractors write stages.0 as stages_0."""
    tensors = {_plain(name): tensor for name, tensor in backbone.state_dict().items()}
    names = encoder.state_dict().keys()
    if missing := [name for name in names if _plain(name) not in tensors]:
        raise SpdError(f"the U-Net's encoder of {architecture} has {missing[0]!r}, which the weights lack")
    return {name: tensors[_plain(name)] for name in names}


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace("_", ".")
