"""Localisation with labels: segmentation_models_pytorch's U-Net around the backbone."""

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.losses import FocalLoss
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from spd_weights.errors import SpdError

from .training import Network

# Suggested by VisA's authors, because defect pixels are few. Gamma is that of the loss's paper (arXiv 1708.02002).
focal_loss = FocalLoss("binary", gamma=2.0)


class UNet(Network):
    """A U-Net whose encoder has the backbone's weights; its decoder's initial values come from torch's generator.

    smp builds the encoder from timm's architecture of the same name, without weights. The backbone's tensors are then
    copied into it, no matter how they were loaded.
    """

    segments = True

    def __init__(self, backbone: nn.Module, image_size: int) -> None:
        """Build the network.

        Args:
            backbone: A timm model with the weights under test; not modified.
            image_size: Side of the images in pixels, for architectures of a fixed input size.

        Raises:
            SpdError: smp cannot build an encoder of this architecture, or the encoder has tensors that the backbone
                lacks.
        """
        architecture = backbone.pretrained_cfg["architecture"]
        options = {"img_size": image_size} if backbone.pretrained_cfg.get("fixed_input_size") else {}
        try:
            unet = smp.Unet(f"tu-{architecture}", encoder_weights=None, classes=1, **options)
        except ValueError as error:  # mostly plain vision transformers: all their features have the same scale
            raise SpdError(
                f"a U-Net needs feature maps at scales 2 or 4 to 32, which {architecture} does not give ({error}); "
                "leave out --method unet"
            ) from error
        encoder = unet.encoder.model
        encoder.load_state_dict(_renamed(backbone, encoder, architecture))
        data = resolve_model_data_config(backbone)
        super().__init__(unet, (unet.decoder, unet.segmentation_head), data["mean"], data["std"])

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Focal loss of logits and masks, float32 [B, S, S]."""
        return focal_loss(logits, truth)


def _renamed(backbone: nn.Module, encoder: nn.Module, architecture: str) -> dict:
    """The backbone's tensors under the encoder's names: timm's feature extractors write stages.0 as stages_0."""
    tensors = {_plain(name): tensor for name, tensor in backbone.state_dict().items()}
    names = encoder.state_dict().keys()
    if missing := [name for name in names if _plain(name) not in tensors]:
        raise SpdError(f"the U-Net's encoder of {architecture} has {missing[0]!r}, which the weights lack")
    return {name: tensors[_plain(name)] for name in names}


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace("_", ".")
