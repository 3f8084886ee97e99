"""The detectors by name, and the options that change their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from .base import Detector
from .padim import Padim
from .patchcore import Patchcore
from .patches import Patches
from .patchknn import PatchKnn
from .pooled import Gaussian, NearestNeighbours

METRICS = ("exact", "spot-diff")
MAP_SIZES = ("input", "native")


@dataclass(frozen=True)
class Settings:
    """Options of the 1-class methods that change the numbers.

    Attributes:
        image_size: Side of the square images in pixels.
        resize: What is seen of a photograph; one of `eval.data.images.RESIZES`.
        feature_precision: One of `eval.backbone.features.FEATURE_PRECISIONS`.
        layers: Feature maps that all detectors read instead of their own, as indices into timm's `feature_info`.
        padim_dims: Channels that PaDiM keeps; None for the paper's number.
        padim_covariance: One of `eval.detectors.padim.COVARIANCES`.
        coreset_ratio: Fraction of the training patches that PatchCore keeps, in (0, 1].
        coreset_start: Where PatchCore's selection starts; one of `eval.detectors.patchcore.STARTS`.
        patchcore_features: What its patches are; one of `eval.detectors.patches.PATCH_FEATURES`.
        patchcore_reweight: Whether PatchCore weights its image scores (the paper's equation 7).
        metrics: One of `METRICS`; "spot-diff" adds the pixel metrics of VisA's authors.
        map_size: Where pixel metrics are computed, one of `MAP_SIZES`: at `image_size`, or at the size of each mask.
    """

    image_size: int = 224
    resize: str = "square"
    feature_precision: str = "fp32"
    layers: Sequence[int] | None = None
    padim_dims: int | None = None
    padim_covariance: str = "full"
    coreset_ratio: float = 0.1
    coreset_start: str = "random"
    patchcore_features: str = "concatenated"
    patchcore_reweight: bool = False
    metrics: str = "exact"
    map_size: str = "input"


DETECTORS: dict[str, type[Detector]] = {
    "padim": Padim,
    "patchcore": Patchcore,
    "patchknn": PatchKnn,
    "gaussian": Gaussian,
    "knn": NearestNeighbours,
}


def build_detectors(method: str, settings: Settings, seeds: Sequence[int], images: int) -> list[Detector]:
    """Create one unfitted detector per seed.

    Args:
        method: One of `DETECTORS`.
        settings: The methods' options.
        seeds: Seeds of the random draws.
        images: Number of training images.
    """
    size = settings.image_size
    if method == "padim":
        return [Padim(size, seed, settings.padim_dims, settings.padim_covariance) for seed in seeds]
    if method == "patchcore":
        patches = Patches(images, settings.patchcore_features)
        options = (settings.coreset_ratio, settings.patchcore_reweight, patches, settings.coreset_start)
        return [Patchcore(size, seed, *options) for seed in seeds]
    if method == "patchknn":
        return [PatchKnn(size) for _ in seeds]
    return [DETECTORS[method]() for _ in seeds]
