"""Feature maps of a frozen backbone."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from timm.data import resolve_model_data_config
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.images import normalized
from spd_weights.stages import DETECTOR_REDUCTIONS, stage_indices

from .folding import folded
from .weights import fingerprint, load_backbone

FEATURE_PRECISIONS = ("fp32", "tf32", "bf16")
# On a CPU larger batches are slower: their activations are no longer served from memory the allocator reuses.
_BATCH_SIZE = {"cpu": 8, "cuda": 32}


class Extractor:
    """A frozen backbone that maps uint8 images to feature maps.

    Attributes:
        network: The backbone, in evaluation mode, with its batch normalisations folded.
        weights: The name by which they were requested.
        sha256: Digest of the safetensors file, or None.
        architecture: timm's name of the architecture.
        fingerprint: Digest of the network, its tensors and its preprocessing.
        layers: Indices of the feature maps in timm's `feature_info`, ascending.
        about: Architecture, layers and device, JSON-ready.
        image_size: Side of the images in pixels.
        mean: The weights' own mean of pixels in [0, 1], float32 [3, 1, 1].
        std: Their standard deviation, likewise.
        batch_size: Recommended number of images per call.
        device: Where the backbone and the feature maps are.
        seconds: Wall time spent in extraction so far.
    """

    def __init__(
        self,
        weights: str,
        image_size: int,
        reductions: Sequence[int] = DETECTOR_REDUCTIONS,
        precision: str = "fp32",
        layers: Sequence[int] | None = None,
    ) -> None:
        """Load the weights and try them on an empty image.

        Args:
            weights: As for `eval.backbone.weights.load_backbone`.
            image_size: Side of the images in pixels.
            reductions: Strides of the wanted maps, of `spd_weights.stages.REDUCTIONS`. Nothing behind the deepest is
                computed.
            precision: One of `FEATURE_PRECISIONS`. "tf32" lets GPUs round inputs of convolutions and matrix products to
                10 bits, torch's default for convolutions; "fp32" does not; on CPUs they are the same. "bf16" computes
                under autocast to bfloat16. Maps are float32 in each case.
            layers: Indices into timm's `feature_info` (blocks, for vision transformers) instead of `reductions`;
                negative ones count from the end.

        Raises:
            SpdError: The weights cannot be loaded, or give no feature maps at this image size.
        """
        self.weights, self.image_size = weights, image_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.sha256 = load_backbone(weights, image_size)
        if not hasattr(model, "forward_intermediates"):
            raise SpdError(f"weights {weights!r}: this architecture gives no intermediate feature maps in timm")
        self.architecture = model.pretrained_cfg["architecture"]
        self.fingerprint = fingerprint(model)
        self._plain_transformer = isinstance(model, VisionTransformer | Eva)
        if layers:
            self.layers = self._chosen(model, layers)
            self._positions = dict.fromkeys(reductions, range(len(self.layers)))
        else:
            stages = stage_indices(model)
            self.layers = sorted({stages[r] for r in reductions})
            self._positions = {r: [self.layers.index(stages[r])] for r in reductions}
        self.about = {"architecture": self.architecture, "layers": self.layers, "device": self.device.type}
        data = resolve_model_data_config(model)
        self.mean = torch.tensor(data["mean"], device=self.device).view(3, 1, 1)
        self.std = torch.tensor(data["std"], device=self.device).view(3, 1, 1)
        self.batch_size = _BATCH_SIZE[self.device.type]
        self._precision = precision
        self.seconds = 0.0
        # For inference channels-last is faster on CPUs, too (not for training).
        self.network = model.requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self._try_size()
        noise = torch.randint(256, (1, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
        probe = self.normalised(noise.byte())
        with _tf32(False):  # its rounding would hide whether folding changes the maps
            self.network = folded(self.network, lambda network: self._maps(network, probe))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Extract the feature maps of a batch.

        Args:
            images: RGB, uint8 [B, 3, S, S].

        Returns:
            One map per layer, float32 [B, C_l, H_l, W_l], on the extractor's device.
        """
        started = time.perf_counter()
        pixels = self.normalised(images)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")
        with autocast, _tf32(self._precision == "tf32"):
            maps = [feature.float() for feature in self.maps(pixels)]
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return maps

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps, one per layer, of images that are `normalised`."""
        return self._maps(self.network, pixels)

    def select(self, maps: list[Tensor], reductions: Sequence[int]) -> list[Tensor]:
        """The maps of some of the requested strides. A map that stands for two strides is returned once."""
        return [maps[i] for i in dict.fromkeys(i for r in reductions for i in self._positions[r])]

    def layers_of(self, reductions: Sequence[int]) -> list[int]:
        """The layers whose maps `select` returns."""
        return self.select(self.layers, reductions)

    def normalised(self, images: Tensor) -> Tensor:
        """The backbone's input for uint8 images: float32, normalised by the weights' own mean and deviation."""
        images = images.to(self.device, memory_format=torch.channels_last)
        return normalized(images, self.mean, self.std)

    def _maps(self, model: nn.Module, pixels: Tensor) -> list[Tensor]:
        # Patch tokens of plain vision transformers pass the final norm, as DINOv2's get_intermediate_layers has it.
        norm = {"norm": True} if self._plain_transformer else {}
        return model.forward_intermediates(
            pixels, indices=self.layers, stop_early=True, intermediates_only=True, output_fmt="NCHW", **norm
        )

    def _chosen(self, model: nn.Module, layers: Sequence[int]) -> list[int]:
        count = len(model.feature_info)
        if wrong := [layer for layer in layers if not -count <= layer < count]:
            known = ", ".join(f"{i} ({stage['module']})" for i, stage in enumerate(model.feature_info))
            raise SpdError(f"weights {self.weights!r}: no layer {wrong[0]}; --layers chooses among {known}")
        return sorted({layer % count for layer in layers})

    def _try_size(self) -> None:
        size = self.image_size
        try:
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except Exception as error:  # architectures complain about a size with errors of any type
            reason = " ".join(str(error).split())[:300]
            raise SpdError(
                f"weights {self.weights!r}: cannot see images of {size} x {size} pixels ({reason}); "
                "choose another --image-size"
            ) from error


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products on GPUs, which torch otherwise sets per operation."""
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
