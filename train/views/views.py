"""The views of a batch: which augmentation makes each, and the random numbers it is drawn from."""

import itertools

import numpy as np
import torch
from torch import Tensor

from ..config import Config, Jitter, Range
from ..data.loader import Batch
from ..recipes import Adapt
from . import augment, perturb
from .randomness import between, log_between, uniforms

Parts = dict[str, list[Tensor]]
"""Views by name: one of each image, or one for each of its anchors."""


def memory_layout(device: torch.device) -> torch.memory_format:
    """The layout of images and weights: channels last on a GPU. On a CPU neither is always the faster: channels last
    takes a tenth more time for a ResNet-18 in float32, a sixth less in bfloat16, a third less for a MobileNetV2.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


class ViewMaker:
    """Turns decoded crops into the views that a method is trained on, on the training device."""

    def __init__(self, config: Config, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        """Remember how the views are made.

        Args:
            config: the run's configuration.
            mean: of the normalisation that the backbone expects, a value a channel, for images in [0, 1].
            std: likewise.
            device: where views are made and returned.
        """
        self.config, self.device = config, device
        self.layout = memory_layout(device)
        self.scale = 1 / torch.tensor(std, device=device)[:, None, None]
        self.shift = -torch.tensor(mean, device=device)[:, None, None] * self.scale

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Make all views of a batch.

        Args:
            batch: decoded crops, one or two an image.

        Returns:
            Normalised float32 tensors (B, 3, S, S): `anchor` and, where there are two crops, `second`, the
            strong views. If the SPD weight is not 0 also `positive` = weak(anchor) and `negative` =
            perturbed(weak'(anchor)), of 2B images where SPD is symmetric, and where the anchor is the
            plain crop `spd_anchor`. `adapt` gets `alpha` (B, 1, S, S), where the negatives were changed, and
            no `positive`: for it that is the rest of the negative. `labels` int64 (B,), where there are any.
        """
        parts = self._made(batch)
        alpha, _ = parts.pop("alpha", None), parts.pop("unperturbed", None)
        for view in itertools.chain(*parts.values()):
            view.mul_(self.scale).add_(self.shift)
        if alpha and isinstance(self.config, Adapt):
            parts["alpha"] = alpha  # a dense loss asks where
        views = {name: view.contiguous(memory_format=self.layout) for name, view in _joined(parts).items()}
        return views if batch.labels is None else {**views, "labels": batch.labels.to(self.device)}

    def unnormalized(self, batch: Batch) -> dict[str, Tensor]:
        """The same views as float32 images in [0, 1]; with them the negatives' `alpha` map (B, 1, S, S), 0
        where nothing was changed, and `unperturbed`, what they were before.
        """
        return _joined(self._made(batch))

    def _made(self, batch: Batch) -> Parts:
        def draw(stream: str, count: int) -> np.ndarray:
            return uniforms(self.config.seed, batch.epoch, batch.indices, stream, count)

        crops = batch.crops.to(self.device, non_blocking=True).unbind(1)  # only the whole lies pinned in one piece
        strong = [self.strong(crop, draw(f"strong {i}", 9)) for i, crop in enumerate(crops)]
        views = {name: [view] for name, view in zip(("anchor", "second"), strong, strict=False)}
        spd = self.config.spd
        if spd.weight == 0:
            return views
        anchors = strong if spd.symmetric else strong[:1]
        if spd.anchor == "crop":
            views["spd_anchor"] = anchors = [crops[0].float().div_(255)]
        unperturbed = [self.weak(anchor, draw(f"weak negative {i}", 13)) for i, anchor in enumerate(anchors)]
        perturbed = [
            perturb.perturb(images, draw(f"perturbation {i}", perturb.UNIFORMS), spd)
            for i, images in enumerate(unperturbed)
        ]
        negative, alpha = (list(parts) for parts in zip(*perturbed, strict=True))
        views |= {"negative": negative, "alpha": alpha, "unperturbed": unperturbed}
        if not isinstance(self.config, Adapt):
            views["positive"] = [self.weak(anchor, draw(f"weak positive {i}", 13)) for i, anchor in enumerate(anchors)]
        return views

    def strong(self, crops: Tensor, u: np.ndarray) -> Tensor:
        """Jitter, greyscale and blur crops, in this order: uint8 (B, 3, S, S) and u (B, 9) to float (B, 3, S, S)."""
        config = self.config.augment
        images = _jitter(crops.float().div_(255), u[:, :6], config.jitter, config.jitter_probability)
        augment.grayscale_(images, torch.from_numpy(u[:, 6] < config.gray_probability))
        return _blur_(images, u[:, 7:9], config.blur_sigma, config.blur_probability)

    def weak(self, images: Tensor, u: np.ndarray) -> Tensor:
        """Crop, flip, blur and jitter a little: (B, 3, S, S) and u (B, 13) to (B, 3, S, S).

        Paper §3.2: weaker than any strong view, so that the negative cannot be told from the anchor by
        a global change.
        """
        config, size = self.config.spd, images.shape[-1]
        area, aspect = between(u[:, 0], *config.weak_crop_area), log_between(u[:, 1], *config.weak_crop_aspect)
        height, width = (np.minimum(1, np.sqrt(area * a)) * size for a in (1 / aspect, aspect))
        boxes = np.stack([u[:, 2] * (size - height), u[:, 3] * (size - width), height, width], 1)
        boxes, flipped = torch.from_numpy(boxes).float(), torch.from_numpy(u[:, 4] < config.weak_flip_probability)
        images = augment.crop(images, boxes.to(self.device), flipped.to(self.device))
        images = _blur_(images, u[:, 5:7], config.weak_blur_sigma, config.weak_blur_probability)
        return _jitter(images, u[:, 7:], config.weak_jitter, config.weak_jitter_probability)


def _joined(parts: Parts) -> dict[str, Tensor]:
    return {name: some[0] if len(some) == 1 else torch.cat(some) for name, some in parts.items()}


def _jitter(images: Tensor, u: np.ndarray, strengths: Jitter, probability: float) -> Tensor:
    factors, order = augment.sample_jitter(u[:, :5], strengths)
    factors[torch.from_numpy(u[:, 5] >= probability)] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return augment.color_jitter_(images, factors, order)


def _blur_(images: Tensor, u: np.ndarray, sigma: Range, probability: float) -> Tensor:
    scale = images.shape[-1] / 224  # sigma is given in pixels at 224 px
    pixels = np.where(u[:, 1] < probability, between(u[:, 0], *sigma) * scale, 0)
    return augment.blur_(images, torch.from_numpy(pixels).float(), sigma[1] * scale)
