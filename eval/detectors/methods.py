"""The detectors of the 1-class protocol by name, and the options that change their numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from .padim import Padim
from .patchcore import Patchcore, Patches
from .pooled import Gaussian, NearestNeighbours


@dataclass(frozen=True)
class Settings:
    """What changes the numbers besides the data, the weights and the run."""

    image_size: int = 224
    resize: str = "square"  # one of `eval.data.images.RESIZES`
    feature_precision: str = "fp32"  # one of `eval.backbone.features.FEATURE_PRECISIONS`
    padim_dims: int | None = None
    padim_covariance: str = "full"
    coreset_ratio: float = 0.1
    patchcore_reweight: bool = False
    metrics: str = "exact"  # or "spot-diff": those of VisA's authors besides


class Detector(Protocol):
    """Learns from feature maps of normal images, then scores others."""

    def update(self, features: list[Tensor]) -> None:
        """Take in a batch of normal images: a map a stage, float32 [B, C_l, H_l, W_l]."""

    def fit(self) -> None:
        """Finish learning, after the last batch."""

    def score(self, features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores, float32 [B], and maps, float32 [B, S, S], or None for a detector of whole images."""

    def state(self) -> dict[str, Tensor]:
        """What scoring needs."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be the detector whose `state` this is, without learning."""


class Method(NamedTuple):
    """How to make a method's detectors.

    Attributes:
        reductions: The stages of the backbone it looks at.
        seeded: Whether its result depends on a seed; where not, one repetition says all.
        make: From the settings, the seeds and the number of training images, a detector for each seed.
    """

    reductions: tuple[int, ...]
    seeded: bool
    make: Callable[[Settings, Sequence[int], int], list[Detector]]


def _padim(settings: Settings, seeds: Sequence[int], images: int) -> list[Detector]:
    size, dims, covariance = settings.image_size, settings.padim_dims, settings.padim_covariance
    return [Padim(size, seed, dims, covariance) for seed in seeds]


def _patchcore(settings: Settings, seeds: Sequence[int], images: int) -> list[Detector]:
    size, ratio, reweight = settings.image_size, settings.coreset_ratio, settings.patchcore_reweight
    patches = Patches(images)
    return [Patchcore(size, seed, ratio, reweight, patches) for seed in seeds]


METHODS = {
    "padim": Method((4, 8, 16), True, _padim),
    "patchcore": Method((8, 16), True, _patchcore),
    "gaussian": Method((32,), False, lambda settings, seeds, images: [Gaussian() for _ in seeds]),
    "knn": Method((32,), False, lambda settings, seeds, images: [NearestNeighbours() for _ in seeds]),
}
