"""Feature maps of a frozen backbone: one pass over the images feeds every detector."""

import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from eval.weights import load_backbone
from spd_weights.errors import SpdError

_REDUCTIONS = (4, 8, 16)  # layer1 to layer3 of a ResNet
# On CPU a larger batch is slower: its activations no longer come from the allocator's reused memory.
_BATCH_SIZE = {"cpu": 8, "cuda": 32}


class Extractor:
    """A frozen backbone that turns uint8 images into feature maps.

    Attributes:
        weights: The name it was asked for by.
        sha256: Of the safetensors file, or None.
        architecture: timm's name of the architecture.
        layers: The feature maps taken: indices into timm's `feature_info`.
        batch_size: Images to give it at once.
    """

    def __init__(self, weights: str, image_size: int) -> None:
        """Load the weights and try them on an empty image.

        Args:
            weights: As for `eval.weights.load_backbone`.
            image_size: Side of the images in pixels.

        Raises:
            SpdError: The weights cannot be loaded, or give no feature maps at this image size.
        """
        self.weights = weights
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.sha256 = load_backbone(weights, image_size)
        if not hasattr(model, "forward_intermediates"):
            raise SpdError(f"weights {weights!r}: this architecture gives no intermediate feature maps in timm")
        self.architecture = model.pretrained_cfg["architecture"]
        self.layers = _layers([stage["reduction"] for stage in model.feature_info])
        data = resolve_model_data_config(model)
        self._mean = torch.tensor(data["mean"], device=self.device).view(3, 1, 1)
        self._std = torch.tensor(data["std"], device=self.device).view(3, 1, 1)
        self.batch_size = _BATCH_SIZE[self.device.type]
        self._model = model.requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        try:
            self(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
        except Exception as error:  # an architecture's own complaint about the size, of any type
            reason = " ".join(str(error).split())[:300]
            raise SpdError(
                f"weights {weights!r}: cannot see images of {image_size} x {image_size} pixels ({reason}); "
                "choose another --image-size"
            ) from error

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Extract the feature maps of a batch.

        Args:
            images: RGB, uint8, shape [B, 3, S, S].

        Returns:
            One map a layer, float32, [B, C_l, H_l, W_l], on the extractor's device.
        """
        pixels = images.to(self.device, memory_format=torch.channels_last).float().div_(255)
        pixels = pixels.sub_(self._mean).div_(self._std)
        return self._model.forward_intermediates(
            pixels, indices=self.layers, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )


def _layers(reductions: list[int]) -> list[int]:
    """The stages of reduction 4, 8 and 16 (layer1 to layer3 of a ResNet).

    Plain vision transformers have one reduction throughout: there the blocks at a quarter, half and three
    quarters of the depth (our choice, the same relative depths as a ResNet's three stages).
    """
    depth = len(reductions)
    if len(set(reductions)) == 1 and depth >= 4:
        return [depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1]
    last = {reduction: index for index, reduction in enumerate(reductions)}
    return [last[r] for r in _REDUCTIONS if r in last] or list(range(min(3, depth)))
