"""The views of a batch: which augmentations make each view, and the random numbers behind them."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import Config, Jitter, Range
from ..data.loader import Batch
from ..data.transfer import to_device
from ..recipes import Adapt
from . import augment, perturb
from .augment import JitterDraws
from .randomness import between, log_between, uniforms

Parts = dict[str, list[Tensor]]
"""Views by name: a list with one tensor (B, …) per anchor."""


MINIMUM_WEAK_SIGMA = 0.3
"""Pixels. A narrower blur changes a black-and-white edge by less than one of 255 grey levels: exp(-1 / 2σ²) < 1/255."""


class StrongDraws(NamedTuple):
    """Random numbers of a strong view, each (B,) and uniform in [0, 1)."""

    jitter: JitterDraws
    jittered: np.ndarray
    """Compared with the probability of jitter; likewise `gray` and `blurred`."""
    gray: np.ndarray
    blur_sigma: np.ndarray
    blurred: np.ndarray

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "StrongDraws":
        """Name the columns of (B, 9) uniforms."""
        return cls(JitterDraws(*u.T[:5]), *u.T[5:9])


class WeakDraws(NamedTuple):
    """Random numbers of a weak view, each (B,) and uniform in [0, 1)."""

    area: np.ndarray
    aspect: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flipped: np.ndarray
    """Compared with the probability of a flip; likewise `blurred` and `jittered`."""
    blur_sigma: np.ndarray
    blurred: np.ndarray
    jitter: JitterDraws
    jittered: np.ndarray

    @classmethod
    def from_uniforms(cls, u: np.ndarray) -> "WeakDraws":
        """Name the columns of (B, 13) uniforms."""
        return cls(*u.T[:7], JitterDraws(*u.T[7:12]), u[:, 12])


def memory_layout(device: torch.device) -> torch.memory_format:
    """Layout of images and weights: channels last on a GPU, contiguous on a CPU.

    Neither layout is always faster on a CPU. Channels last took a tenth more time for a ResNet-18 in
    float32, a sixth less for it in bfloat16, and a third less for a MobileNetV2.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


class ViewMaker:
    """Turns decoded crops into the views that a method trains on, on the training device."""

    def __init__(self, config: Config, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        """Set up view making for a run.

        Args:
            config: the run's configuration.
            mean: per-channel mean of the normalisation that the backbone expects, for images in [0, 1].
            std: per-channel standard deviation of the same normalisation.
            device: where views are made and returned.
        """
        self.config, self.device = config, device
        self.layout = memory_layout(device)
        self.scale = 1 / torch.tensor(std, device=device)[:, None, None]
        self.shift = -torch.tensor(mean, device=device)[:, None, None] * self.scale

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Make all views of a batch.

        Args:
            batch: decoded crops, one or two per image.

        Returns:
            Normalised float32 tensors (B, 3, S, S):

            - `anchor`, a strong view, and `second`, another one if the batch has two crops per image;
            - with an SPD weight above 0, `positive` = weak(anchor) and `negative` = perturbed(weak'(anchor)),
              both (2B, 3, S, S) if SPD is symmetric;
            - `spd_anchor`, if the SPD anchor is the plain crop;
            - for `adapt`, no `positive`, but `alpha` (B, 1, S, S), which says where each negative was changed;
            - `labels`, int64 (B,), if the data has labels.
        """
        parts = self._make(batch)
        alpha, _ = parts.pop("alpha", None), parts.pop("unperturbed", None)
        for view in itertools.chain(*parts.values()):
            view.mul_(self.scale).add_(self.shift)
        if alpha and isinstance(self.config, Adapt):
            parts["alpha"] = alpha
        views = {name: view.contiguous(memory_format=self.layout) for name, view in _join(parts).items()}
        return views if batch.labels is None else {**views, "labels": batch.labels.to(self.device, non_blocking=True)}

    def unnormalized(self, batch: Batch) -> dict[str, Tensor]:
        """Make the same views as float32 images in [0, 1].

        With SPD the result also has `alpha` (B, 1, S, S), which is 0 where a negative was not changed, and
        `unperturbed`, the negatives before their perturbation.
        """
        return _join(self._make(batch))

    def _make(self, batch: Batch) -> Parts:
        def draw(stream: str, count: int) -> np.ndarray:
            return uniforms(self.config.seed, batch.epoch, batch.indices, stream, count)

        crops = batch.crops_on(self.device).unbind(1)
        strong = [self.strong(crop, StrongDraws.from_uniforms(draw(f"strong {i}", 9))) for i, crop in enumerate(crops)]
        views = {name: [view] for name, view in zip(("anchor", "second"), strong, strict=False)}
        spd = self.config.spd
        if spd.weight == 0:
            return views
        anchors = strong if spd.symmetric else strong[:1]
        if spd.anchor == "crop":
            views["spd_anchor"] = anchors = [crops[0].float().div_(255)]
        views["unperturbed"] = self._weak_views(anchors, "weak negative", draw)
        perturbed = [
            perturb.perturb(images, draw(f"perturbation {i}", perturb.UNIFORMS), spd)
            for i, images in enumerate(views["unperturbed"])
        ]
        views["negative"], views["alpha"] = (list(parts) for parts in zip(*perturbed, strict=True))
        if not isinstance(self.config, Adapt):  # adapt's positives are the positions outside alpha
            views["positive"] = self._weak_views(anchors, "weak positive", draw)
        return views

    def _weak_views(self, anchors: list[Tensor], stream: str, draw: Callable[[str, int], np.ndarray]) -> list[Tensor]:
        return [
            self.weak(anchor, WeakDraws.from_uniforms(draw(f"{stream} {i}", 13))) for i, anchor in enumerate(anchors)
        ]

    def strong(self, crops: Tensor, draws: StrongDraws) -> Tensor:
        """Jitter, greyscale and blur crops, in this order: uint8 (B, 3, S, S) to float32 (B, 3, S, S)."""
        config = self.config.augment
        images = crops.float().div_(255)
        _jitter_(images, draws.jitter, draws.jittered < config.jitter_probability, config.jitter)
        augment.grayscale_(images, torch.from_numpy(draws.gray < config.gray_probability))
        sigma = _blur_range(config.blur_sigma, images.shape[-1])
        return _blur_(images, draws.blur_sigma, draws.blurred < config.blur_probability, sigma)

    def weak(self, images: Tensor, draws: WeakDraws) -> Tensor:
        """Crop, flip, blur and jitter slightly, in this order: float32 (B, 3, S, S) to a new (B, 3, S, S).

        Paper §3.2: weaker than any strong view, so that no global change separates the negative from the anchor.
        """
        config, size = self.config.spd, images.shape[-1]
        area = between(draws.area, *config.weak_crop_area)
        aspect = log_between(draws.aspect, *config.weak_crop_aspect)
        height, width = (np.minimum(1, np.sqrt(area * ratio)) * size for ratio in (1 / aspect, aspect))
        boxes = np.stack([draws.top * (size - height), draws.left * (size - width), height, width], 1)
        flipped = torch.from_numpy(draws.flipped < config.weak_flip_probability)
        where = to_device(torch.from_numpy(boxes).float(), self.device)
        images = augment.crop(images, where, to_device(flipped, self.device))
        sigma = _blur_range(config.weak_blur_sigma, size, MINIMUM_WEAK_SIGMA)
        _blur_(images, draws.blur_sigma, draws.blurred < config.weak_blur_probability, sigma)
        return _jitter_(images, draws.jitter, draws.jittered < config.weak_jitter_probability, config.weak_jitter)


def _join(parts: Parts) -> dict[str, Tensor]:
    return {name: some[0] if len(some) == 1 else torch.cat(some) for name, some in parts.items()}


def _jitter_(images: Tensor, draws: JitterDraws, applied: np.ndarray, strengths: Jitter) -> Tensor:
    factors, order = augment.sample_jitter(draws, strengths)
    factors[torch.from_numpy(~applied)] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return augment.color_jitter_(images, factors, order)


def _blur_(images: Tensor, u: np.ndarray, applied: np.ndarray, sigma: Range) -> Tensor:
    pixels = np.where(applied, between(u, *sigma), 0)
    return augment.blur_(images, torch.from_numpy(pixels).float())


def _blur_range(sigma_at_224: Range, size: int, minimum: float = 0.0) -> Range:
    """Scale a range of sigmas, given in pixels at 224 px, to another image size."""
    low, high = (max(minimum, sigma * size / 224) for sigma in sigma_at_224)
    return low, high
