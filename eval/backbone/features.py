"""Feature maps of a frozen backbone: one pass over the images feeds every detector."""

from collections.abc import Sequence

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.images import normalized
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices

from .folding import folded
from .weights import load_backbone

FEATURE_PRECISIONS = ("fp32", "bf16")
# On CPU a larger batch is slower: its activations no longer come from the allocator's reused memory.
_BATCH_SIZE = {"cpu": 8, "cuda": 32}


class Extractor:
    """A frozen backbone that turns uint8 images into feature maps.

    Attributes:
        weights: The name it was asked for by.
        sha256: Of the safetensors file, or None.
        architecture: timm's name of the architecture.
        layers: The feature maps taken: indices into timm's `feature_info`, ascending.
        about: Architecture, layers and device, JSON-ready.
        image_size: Side of the images in pixels.
        batch_size: Images to give it at once.
    """

    def __init__(
        self, weights: str, image_size: int, reductions: Sequence[int] = DETECTOR_REDUCTIONS, precision: str = "fp32"
    ) -> None:
        """Load the weights and try them on an empty image.

        Args:
            weights: As for `eval.backbone.weights.load_backbone`.
            image_size: Side of the images in pixels.
            reductions: The stages wanted, of `spd_weights.stages.REDUCTIONS`; nothing behind the deepest is computed.
            precision: One of `FEATURE_PRECISIONS`; "bf16" computes under autocast to bfloat16, maps come as float32.

        Raises:
            SpdError: The weights cannot be loaded, or give no feature maps at this image size.
        """
        self.weights, self.image_size = weights, image_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.sha256 = load_backbone(weights, image_size)
        if not hasattr(model, "forward_intermediates"):
            raise SpdError(f"weights {weights!r}: this architecture gives no intermediate feature maps in timm")
        self.architecture = model.pretrained_cfg["architecture"]
        stages = stage_indices(model)
        self.layers = sorted({stages[r] for r in reductions})
        self.about = {"architecture": self.architecture, "layers": self.layers, "device": self.device.type}
        self._position = {r: self.layers.index(stages[r]) for r in reductions}
        data = resolve_model_data_config(model)
        self._mean = torch.tensor(data["mean"], device=self.device).view(3, 1, 1)
        self._std = torch.tensor(data["std"], device=self.device).view(3, 1, 1)
        self.batch_size = _BATCH_SIZE[self.device.type]
        self._precision = precision
        # Faster than contiguous on CPU as well, for inference (not for training).
        self._model = model.requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        try:
            self(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
        except Exception as error:  # an architecture's own complaint about the size, of any type
            reason = " ".join(str(error).split())[:300]
            raise SpdError(
                f"weights {weights!r}: cannot see images of {image_size} x {image_size} pixels ({reason}); "
                "choose another --image-size"
            ) from error
        noise = torch.randint(256, (1, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
        probe = self.normalised(noise.byte())
        self._model = folded(self._model, lambda network: self._maps(network, probe))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Extract the feature maps of a batch.

        Args:
            images: RGB, uint8, shape [B, 3, S, S].

        Returns:
            One map a layer, float32, [B, C_l, H_l, W_l], on the extractor's device.
        """
        pixels = self.normalised(images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            maps = self._maps(self._model, pixels)
        return [feature.float() for feature in maps]

    def _maps(self, model: nn.Module, pixels: Tensor) -> list[Tensor]:
        return model.forward_intermediates(
            pixels, indices=self.layers, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )

    def normalised(self, images: Tensor) -> Tensor:
        """What the backbone is given for uint8 images: float32 by the weights' own mean and deviation."""
        images = images.to(self.device, memory_format=torch.channels_last)
        return normalized(images, self._mean, self._std)

    def select(self, maps: list[Tensor], reductions: Sequence[int]) -> list[Tensor]:
        """The maps of some of the stages asked for at the start; one that stands for two comes once."""
        return [maps[i] for i in dict.fromkeys(self._position[r] for r in reductions)]
