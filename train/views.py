"""The views of a batch: which augmentation makes each, and the random numbers it is drawn from."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from train import augment, perturb
from train.config import Adapt, Config
from train.data import Batch
from train.randomness import between, log_between, uniforms


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
            plain crop `spd_anchor`; for `adapt` also `alpha` (B, 1, S, S), where the negatives were changed.
            `labels` int64 (B,), where there are any.
        """
        made = self.unnormalized(batch)
        views = {
            name: ((view - self.mean) / self.std).contiguous(memory_format=self.layout)
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

        crops = batch.crops.to(self.device, non_blocking=True).float().div_(255)
        names = ("anchor", "second")[: crops.shape[1]]
        views = {name: self.strong(crops[:, i], draw(f"strong {i}", 10)) for i, name in enumerate(names)}
        spd = self.config.spd
        if spd.weight == 0:
            return views
        anchors = [views["anchor"]]
        if spd.anchor == "crop":
            anchors = [crops[:, 0]]
            views["spd_anchor"] = crops[:, 0]
        elif spd.symmetric:
            anchors = list(views.values())
        pairs = []
        for i, anchor in enumerate(anchors):
            positive = self.weak(anchor, draw(f"weak positive {i}", 13))
            weak = self.weak(anchor, draw(f"weak negative {i}", 13))
            negative, alpha = perturb.perturb(weak, draw(f"perturbation {i}", perturb.UNIFORMS), spd)
            pairs.append((positive, negative, alpha, weak))
        names = ("positive", "negative", "alpha", "unperturbed")
        return views | {name: torch.cat(parts) for name, parts in zip(names, zip(*pairs, strict=True), strict=True)}

    def strong(self, images: Tensor, u: np.ndarray) -> Tensor:
        """Jitter, greyscale, blur and flip crops, in this order: (B, 3, S, S) and u (B, 10) to (B, 3, S, S)."""
        config, size = self.config.augment, images.shape[-1]
        images = self._jitter(images, u[:, :6], config.jitter, config.jitter_probability)
        images = augment.grayscale(images, self._device(u[:, 6] < config.gray_probability))
        sigma = self._blur_sigma(u[:, 7:9], config.blur_sigma, config.blur_probability, size)
        rows = augment.blur_matrix(sigma, size)
        return augment.separable(images, rows, augment.flip(rows, self._device(u[:, 9] < 0.5)))

    def weak(self, images: Tensor, u: np.ndarray) -> Tensor:
        """Crop, blur, flip and jitter a little: (B, 3, S, S) and u (B, 13) to (B, 3, S, S).

        Paper §3.2: weaker than any strong view, so that the negative cannot be told from the anchor by
        a global change. Crop, blur and flip make one linear map.
        """
        config, size = self.config.spd, images.shape[-1]
        blur = augment.blur_matrix(
            self._blur_sigma(u[:, 0:2], config.weak_blur_sigma, config.weak_blur_probability, size), size
        )
        area, aspect = (
            between(u[:, 2], *config.weak_crop_area),
            log_between(u[:, 3], *config.weak_crop_aspect),
        )
        height, width = (np.minimum(1, np.sqrt(area * a)) * size for a in (1 / aspect, aspect))
        top, left = u[:, 4] * (size - height), u[:, 5] * (size - width)
        crop_rows, crop_columns = (
            augment.crop_matrix(self._device(start), self._device(length), size)
            for start, length in ((top, height), (left, width))
        )
        columns = augment.flip(blur @ crop_columns, self._device(u[:, 6] < config.weak_flip_probability))
        images = augment.separable(images, blur @ crop_rows, columns)
        return self._jitter(images, u[:, 7:], config.weak_jitter, config.weak_jitter_probability)

    def _jitter(self, images: Tensor, u: np.ndarray, strengths: Any, probability: float) -> Tensor:
        factors, order = augment.sample_jitter(u[:, :5], strengths)
        unchanged = torch.tensor([1.0, 1.0, 1.0, 0.0])
        chosen = torch.from_numpy(u[:, 5] < probability)[:, None]
        return augment.color_jitter(images, torch.where(chosen, factors, unchanged), order)

    def _blur_sigma(self, u: np.ndarray, sigma: tuple[float, float], probability: float, size: int) -> Tensor:
        pixels = between(u[:, 0], *sigma) * size / 224
        return self._device(np.where(u[:, 1] < probability, pixels, 0))

    def _device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return (tensor if tensor.dtype == torch.bool else tensor.float()).to(self.device, non_blocking=True)
