"""The views of a batch: which augmentation makes each, and the random numbers it is drawn from."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from train import augment, perturb
from train.config import Config, Jitter, Range
from train.data import Batch
from train.randomness import between, log_between, uniforms
from train.recipes import Adapt

_BLOCK_PIXELS = 8 * 224**2

Views = tuple[Tensor, ...]


def memory_layout(device: torch.device) -> torch.memory_format:
    """The layout that convolutions are fastest in: channels last on a GPU, which is up to 4 × slower on a CPU."""
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
        self.mean = torch.tensor(mean, device=device)[:, None, None]
        self.std = torch.tensor(std, device=device)[:, None, None]

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
        made = self.unnormalized(batch)
        views = {
            name: (view - self.mean).div_(self.std).contiguous(memory_format=self.layout)
            for name, view in made.items()
            if name not in ("alpha", "unperturbed")
        }
        if "alpha" in made and isinstance(self.config, Adapt):
            views["alpha"] = made["alpha"]  # a dense loss asks where
        return views if batch.labels is None else {**views, "labels": batch.labels.to(self.device)}

    def unnormalized(self, batch: Batch) -> dict[str, Tensor]:
        """The same views as float32 images in [0, 1]; with them the negatives' `alpha` map (B, 1, S, S), 0
        where nothing was changed, and `unperturbed`, what they were before.
        """

        def draw(stream: str, count: int) -> np.ndarray:
            return uniforms(self.config.seed, batch.epoch, batch.indices, stream, count)

        crops = [crop.to(self.device, non_blocking=True) for crop in batch.crops.unbind(1)]
        names = ("anchor", "second")[: len(crops)]
        views = {
            name: _blockwise(self.strong, crop, draw(f"strong {i}", 9))[0]
            for i, (name, crop) in enumerate(zip(names, crops, strict=True))
        }
        spd = self.config.spd
        if spd.weight == 0:
            return views
        anchors = [views["anchor"]]
        if spd.anchor == "crop":
            anchors = [crops[0].float().div_(255)]
            views["spd_anchor"] = anchors[0]
        elif spd.symmetric:
            anchors = list(views.values())
        made = [
            _blockwise(
                self.negative, anchor, draw(f"weak negative {i}", 13), draw(f"perturbation {i}", perturb.UNIFORMS)
            )
            for i, anchor in enumerate(anchors)
        ]
        names = ("negative", "alpha", "unperturbed")
        views |= {name: torch.cat(parts) for name, parts in zip(names, zip(*made, strict=True), strict=True)}
        if not isinstance(self.config, Adapt):
            positives = [
                _blockwise(self.positive, anchor, draw(f"weak positive {i}", 13))[0] for i, anchor in enumerate(anchors)
            ]
            views["positive"] = torch.cat(positives)
        return views

    def strong(self, crops: Tensor, u: np.ndarray) -> Views:
        """Jitter, greyscale and blur crops, in this order: uint8 (B, 3, S, S) and u (B, 9) to float (B, 3, S, S)."""
        config = self.config.augment
        images = _jitter(crops.float().div_(255), u[:, :6], config.jitter, config.jitter_probability)
        images = augment.grayscale(images, torch.from_numpy(u[:, 6] < config.gray_probability))
        return (_blur(images, u[:, 7:9], config.blur_sigma, config.blur_probability),)

    def positive(self, anchors: Tensor, u: np.ndarray) -> Views:
        """Weak augmentations of anchors: (B, 3, S, S) and u (B, 13) to (B, 3, S, S)."""
        return (self.weak(anchors, u),)

    def negative(self, anchors: Tensor, u_weak: np.ndarray, u_perturb: np.ndarray) -> Views:
        """Perturbed weak augmentations of anchors, where they were changed (alpha), and what they were before."""
        unperturbed = self.weak(anchors, u_weak)
        return *perturb.perturb(unperturbed, u_perturb, self.config.spd), unperturbed

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
        images = _blur(images, u[:, 5:7], config.weak_blur_sigma, config.weak_blur_probability)
        return _jitter(images, u[:, 7:], config.weak_jitter, config.weak_jitter_probability)


def _blockwise(make: Callable[..., Views], images: Tensor, *draws: np.ndarray) -> Views:
    """Make views of a few images at a time on a CPU, where a block that stays in the cache is twice as fast."""
    block = _BLOCK_PIXELS // images.shape[-1] ** 2 if images.device.type == "cpu" else len(images)
    starts = range(0, len(images), max(1, block))
    parts = [make(*(values[start : start + starts.step] for values in (images, *draws))) for start in starts]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(views) for views in zip(*parts, strict=True))


def _jitter(images: Tensor, u: np.ndarray, strengths: Jitter, probability: float) -> Tensor:
    factors, order = augment.sample_jitter(u[:, :5], strengths)
    factors[torch.from_numpy(u[:, 5] >= probability)] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return augment.color_jitter(images, factors, order)


def _blur(images: Tensor, u: np.ndarray, sigma: Range, probability: float) -> Tensor:
    scale = images.shape[-1] / 224  # sigma is given in pixels at 224 px
    pixels = np.where(u[:, 1] < probability, between(u[:, 0], *sigma) * scale, 0)
    return augment.blur(images, torch.from_numpy(pixels).float(), sigma[1] * scale)
