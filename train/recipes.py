"""The recipes: each method's own options, and its defaults for the options that all share (`train.config`)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from spd_weights.errors import SpdError

from .config import AugmentConfig, Config, ModelConfig, OptimConfig, SpdConfig


@dataclass(frozen=True)
class SimSiamConfig:
    """SimSiam's heads (Chen & He, CVPR 2021)."""

    projector_dim: int = 2048
    """Width of the embeddings. The projector's two hidden layers are as wide as the backbone's features."""
    predictor_dim: int = 512
    """Width of the predictor's bottleneck."""


@dataclass(frozen=True)
class MoCoConfig:
    """MoCo's head and queue (He et al., CVPR 2020; v2: Chen et al., arXiv 2003.04297)."""

    version: Literal["v1", "v2"] = "v2"
    """v1 has a linear head, v2 a hidden layer. The recipe moco_v1 has v1's other settings, too."""
    dim: int = 128
    """Width of the embeddings."""
    queue_size: int = 65536
    """Number of keys from earlier steps that serve as negatives."""
    momentum: float = 0.999
    """Momentum of the key encoder: k = momentum · k + (1 - momentum) · q, per step."""
    temperature: float = 0.2
    """Divides the cosine similarities."""


@dataclass(frozen=True)
class SimCLRConfig:
    """SimCLR's head (Chen et al., ICML 2020; three layers: the official code's default, from SimCLR v2)."""

    projector_layers: int = 3
    """Number of linear layers in the projector."""
    projector_dim: int = 128
    """Width of the embeddings."""
    temperature: float = 0.1
    """Divides the cosine similarities."""


@dataclass(frozen=True)
class AdaptConfig:
    """How to stay close to the starting weights, and what to export."""

    keep_weight: float = 3.0
    """Weight of the squared distance from the starting features, at every position of three stages."""
    scales: tuple[float, ...] = ()
    """Factors by which the export multiplies the maps of strides 4, 8 and 16 (MobileNetV2, EfficientNet).
    The layers that read the maps divide by them, so the network computes the same.
    Detectors depend on the size of the values: PatchCore gives larger ones more weight, PaDiM adds a fixed ridge."""


@dataclass(frozen=True, kw_only=True)
class SimSiam(Config):
    """SimSiam (Chen & He, CVPR 2021): two views of an image attract each other, with a predictor on one side
    and a stop-gradient on the other. Defaults: its ResNet-50 runs, 100 epochs, batch 512."""

    simsiam: SimSiamConfig = SimSiamConfig()


@dataclass(frozen=True, kw_only=True)
class MoCo(Config):
    """MoCo v2 (Chen et al., 2020): find a view's partner among a queue of earlier images. Defaults: its
    ResNet-50 runs, 200 epochs, batch 256. Its ShuffleBN, which keeps batch statistics from revealing the partner,
    needs several processes: on one there is nothing to shuffle, as with the official code on one GPU."""

    model: ModelConfig = ModelConfig(zero_init_residual=False, sync_batch_norm=False)
    optim: OptimConfig = OptimConfig(epochs=200, batch_size=256, lr=0.03)
    moco: MoCoConfig = MoCoConfig()


@dataclass(frozen=True, kw_only=True)
class MoCoV1(MoCo):
    """MoCo v1 (He et al., CVPR 2020): linear head, temperature 0.07, step schedule, stronger jitter, no blur. All
    else as in moco."""

    optim: OptimConfig = OptimConfig(epochs=200, batch_size=256, lr=0.03, schedule="step", milestones=(120, 160))
    augment: AugmentConfig = AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, blur_probability=0.0)
    moco: MoCoConfig = MoCoConfig(version="v1", temperature=0.07)


@dataclass(frozen=True, kw_only=True)
class SimCLR(Config):
    """SimCLR (Chen et al., ICML 2020): find a view's partner among all images of the batch. Defaults: the
    official ImageNet command, 100 epochs, batch 4096, LARS."""

    optim: OptimConfig = OptimConfig(batch_size=4096, optimizer="lars", lr=1.2, lr_scaling="sqrt", warmup_epochs=10)
    augment: AugmentConfig = AugmentConfig(crop_area=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2))
    simclr: SimCLRConfig = SimCLRConfig()


@dataclass(frozen=True, kw_only=True)
class Supervised(Config):
    """Label cross-entropy, with SPD as an auxiliary task. Defaults: torchvision's ImageNet reference, 90 epochs,
    batch 256. The labels of a folder are the names of its subfolders."""

    model: ModelConfig = ModelConfig(zero_init_residual=False, sync_batch_norm=False)
    optim: OptimConfig = OptimConfig(epochs=90, batch_size=256, lr=0.1, schedule="step")
    augment: AugmentConfig = AugmentConfig(
        crop_area=(0.08, 1.0), jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0
    )


@dataclass(frozen=True, kw_only=True)
class Linear(Supervised):
    """Linear evaluation: train a classifier on the frozen features of --model.init, and measure it on --data.val.
    Defaults: MoCo's main_lincls.py, 100 epochs, batch 256, learning rate 30, divided by 10 at epochs 60 and 80.
    SimSiam used lars, cosine, 90 epochs, batch 4096 and learning rate 0.1 instead."""

    model: ModelConfig = ModelConfig(init="timm", sync_batch_norm=False)
    optim: OptimConfig = OptimConfig(
        epochs=100, batch_size=256, lr=30.0, schedule="step", milestones=(60, 80), weight_decay=0.0
    )
    spd: SpdConfig = SpdConfig(weight=0.0)

    def __post_init__(self) -> None:
        """Refuse SPD, which would have nothing to train."""
        super().__post_init__()
        if self.spd.weight:
            raise SpdError("--spd.weight: the recipe linear trains no backbone, so it must be 0")


IN_PLACE: dict[str, Any] = {
    "weak_crop_area": (1.0, 1.0),
    "weak_crop_aspect": (1.0, 1.0),
    "weak_flip_probability": 0.0,
}
"""SPD options that keep anchor and negative aligned pixel by pixel, as the dense loss of `adapt` needs."""
_DENSE: dict[str, Any] = {
    **IN_PLACE,
    "loss": "auto",
    "anchor": "strong",
    "symmetric": False,
    "detach_anchor": False,
    "batch_norm": "together",
    "layer": None,
}
"""The only values that the dense loss has: it compares two aligned views, at fixed stages, with fixed statistics."""


@dataclass(frozen=True, kw_only=True)
class Adapt(Config):
    """Dense SPD on top of a pre-trained backbone: short, at a small learning rate, kept close to the starting
    weights. Our own recipe; the paper pre-trains from scratch and compares pooled embeddings."""

    model: ModelConfig = ModelConfig(init="timm", sync_batch_norm=False)
    optim: OptimConfig = OptimConfig(
        epochs=1, steps=150, batch_size=24, optimizer="adamw", lr=1e-4, lr_scaling="none", weight_decay=0.0
    )
    augment: AugmentConfig = AugmentConfig(
        crop_area=(0.5, 1.0), jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0
    )
    spd: SpdConfig = SpdConfig(weight=1.0, **IN_PLACE)
    adapt: AdaptConfig = AdaptConfig()

    def __post_init__(self) -> None:
        """Refuse SPD options that the dense loss cannot use."""
        super().__post_init__()
        if self.optim.steps and self.optim.epochs != 1:
            raise SpdError(
                f"--optim.epochs {self.optim.epochs} would have no effect beside --optim.steps {self.optim.steps}: set "
                f"--optim.steps None to count in epochs"
            )
        if self.spd.weight == 0:
            return
        for name, required in _DENSE.items():
            if (value := getattr(self.spd, name)) != required:
                raise SpdError(
                    f"--spd.{name.replace('_', '-')} {value}: it must be {required} for the recipe adapt, which "
                    f"compares position by position"
                )


RECIPES: dict[str, type[Config]] = {
    "simsiam": SimSiam,
    "moco": MoCo,
    "moco_v1": MoCoV1,
    "simclr": SimCLR,
    "supervised": Supervised,
    "adapt": Adapt,
    "linear": Linear,
}


def recipe_name(config: Config) -> str:
    """The configuration's name on the command line."""
    return next(name for name, recipe in RECIPES.items() if type(config) is recipe)


def to_json(config: Config) -> dict[str, object]:
    """The resolved configuration as nested dictionaries, ready for JSON."""
    fields = dataclasses.asdict(config)
    for action in ("print_config", "preview", "plan"):
        del fields[action]
    fields["probe"]["anomaly"] = None if config.probe.anomaly is None else str(config.probe.anomaly)
    return {"recipe": recipe_name(config), **fields, "out": str(config.out)}


def from_json(settings: Mapping[str, Any]) -> Config:
    """The configuration that `to_json` wrote.

    Raises:
        SpdError: the recipe or an option does not exist.
    """
    recipe = RECIPES.get(settings.get("recipe", ""))
    if recipe is None:
        raise SpdError(f"recipe {settings.get('recipe')}: not one of {', '.join(RECIPES)}")
    try:
        return _filled(recipe, {name: value for name, value in settings.items() if name != "recipe"}, "--")
    except (TypeError, AttributeError) as error:  # required options are missing, or a group is no dictionary
        raise SpdError(f"not the config.json of a run: {error}") from error


def _filled(kind: type, settings: Mapping[str, Any], prefix: str) -> Any:
    types = get_type_hints(kind)
    values = {}
    for name, value in settings.items():
        option = f"{prefix}{name.replace('_', '-')}"
        if name not in types:
            raise SpdError(f"{option}: there is no such option")
        if dataclasses.is_dataclass(types[name]):
            value = _filled(types[name], value, f"{option}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and types[name] in (Path, Path | None):
            value = Path(value)
        values[name] = value
    return kind(**values)
