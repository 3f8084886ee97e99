"""Every knob of a run, with its default, its unit and where it comes from.

`python -m train RECIPE --help` prints these texts. Strengths given in pixels hold at 224 px and scale
with the image size.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spd_weights.errors import SpdError

Range = tuple[float, float]
Jitter = tuple[float, float, float, float]


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    train: str
    """A folder of images (searched through), a folder of parquet files or webdataset tars, or
    hf:owner/dataset[:config], whose parquet files are read from the Hub by ranges, without a copy."""
    val: str | None = None
    """Labelled images to measure on, as --probe.every says: a classifier's top-1 and top-5 accuracy, or for methods
    without labels that of nearest neighbours among them."""
    image_size: int = 224
    """Side of the square crops, in pixels."""
    workers: int = field(default_factory=lambda: min(8, max(1, len(os.sched_getaffinity(0)) - 1)))
    """Processes that decode and crop, per training process; 0 decodes in the training process itself."""
    max_bad_fraction: float = 0.01
    """Unreadable images are skipped and named; more than this share of those visited stops the run."""


@dataclass(frozen=True)
class ModelConfig:
    """The backbone."""

    arch: str = "resnet50"
    """Any timm model with pooled features."""
    init: str = "none"
    """Starting weights: none, timm (the architecture's default ones), or a weights name, hf-hub:… or local-dir:…."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, for images that memory would not hold."""


@dataclass(frozen=True)
class OptimConfig:
    """How long and how fast to learn. The batch is global: no value depends on the number of processes."""

    epochs: int = 100
    """Passes over the data; the schedule ends with the last."""
    max_steps: int | None = None
    """Stop after this many steps, wherever the schedule is."""
    batch_size: int = 512
    """Images a step, over all processes."""
    accumulate: int = 1
    """Parts a process's share of the batch is computed in, to save memory. Batch norm sees one part, and
    SimCLR and MoCo find negatives in their part (and the queue) alone: the gradient is that of smaller batches."""
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    """lars leaves biases and norms out of weight decay and of its layer-wise scaling."""
    lr: float = 0.05
    """Learning rate for a batch of 256."""
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How the learning rate grows with the batch size."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine falls to 0 over the run; step divides by 10 after each third of it."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly from 0."""
    momentum: float = 0.9
    """Of SGD and LARS."""
    weight_decay: float = 1e-4
    """L2 penalty; on all parameters with sgd."""


@dataclass(frozen=True)
class AugmentConfig:
    """The strong views. Defaults as in MoCo v2 and SimSiam."""

    crop_area: Range = (0.2, 1.0)
    """Share of the image that a crop covers."""
    jitter: Jitter = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue."""
    jitter_probability: float = 0.8
    """Share of views whose colours are jittered."""
    gray_probability: float = 0.2
    """Share of views turned to greyscale."""
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the Gaussian blur, in pixels at 224 px."""
    blur_probability: float = 0.5
    """Share of views that are blurred."""


@dataclass(frozen=True)
class SpdConfig:
    """SPot-the-Difference (Zou et al., ECCV 2022): pull an image towards its weak global augmentation,
    push it away from a locally perturbed copy. The paper gives no strengths; these are our choices."""

    weight: float = 0.1
    """Weight η of the SPD loss (the paper's best of 0.1, 0.5, 1). 0 is the bare base method, at its cost."""
    loss: Literal["auto", "cosine", "cross_entropy"] = "auto"
    """cosine compares embeddings; cross_entropy has a binary classifier on the pooled features tell
    perturbed from unperturbed. auto is the paper's: cross_entropy for supervised, cosine for the others."""
    perturbation: Literal["smoothblend", "smoothblend_literal", "cutpaste", "cutpaste_scar"] = "smoothblend"
    """How the negative is perturbed. The literal form has a dark halo around the patch, smoothblend has not.
    The patch options below are SmoothBlend's; CutPaste keeps its own."""
    anchor: Literal["strong", "crop"] = "strong"
    """Which view is the anchor: the strong view of the base loss (the paper's x_i), or its crop before
    any other augmentation, at the cost of one more pass."""
    symmetric: bool = False
    """Use both strong views as anchors, at twice the cost; the paper speaks of one."""
    detach_anchor: bool = False
    """Stop the gradient through the anchor; the paper's formula has no stop-gradient."""
    batch_norm: Literal["together", "apart"] = "together"
    """Batch statistics over positives and negatives together, which can neither reveal nor wipe out
    their difference, or over each apart."""
    layer: int | None = None
    """Which stage of the backbone, from 0, the binary classifier of cross_entropy reads, pooled; the last features
    by default. The paper says "a ResNet-50 feature layer": earlier ones see smaller things."""
    patch_area: Range = (0.003, 0.03)
    """Share of the image that the patch covers, log-uniform: from a scar to a small CutPaste patch."""
    patch_aspect: Range = (0.3, 3.3)
    """Height over width of the patch, log-uniform (CutPaste's range)."""
    patch_min_side: float = 0.02
    """Least side of the patch, as a share of the image's side."""
    patch_min_pixels: float = 4.0
    """Least side of the patch, in pixels at any size: less is lost in the first convolution."""
    patch_jitter: Jitter = (0.3, 0.3, 0.3, 0.1)
    """Colour jitter of the patch (CutPaste found 0.2 to 0.3 better than 0.1)."""
    alpha_sigma: float = 0.15
    """Blur of the alpha map, as a share of the patch's short side: soft edges, and a core that is fully pasted."""
    weak_crop_area: Range = (0.8, 1.0)
    """Weak augmentation: share of the anchor that is kept."""
    weak_crop_aspect: Range = (0.9, 1.1)
    """Weak augmentation: width over height of the crop."""
    weak_flip_probability: float = 0.5
    """Weak augmentation: share of views that are flipped."""
    weak_jitter: Jitter = (0.1, 0.1, 0.1, 0.02)
    """Weak augmentation: strength of brightness, contrast, saturation and hue."""
    weak_jitter_probability: float = 0.8
    """Weak augmentation: share of views whose colours are jittered."""
    weak_blur_sigma: Range = (0.3, 0.5)
    """Weak augmentation: sigma of the blur in pixels at 224 px, too small to wipe out the edge of a patch. At other
    sizes it is scaled, but never below 0.3 px: a narrower blur changes an edge by less than one grey level."""
    weak_blur_probability: float = 0.3
    """Weak augmentation: share of views that are blurred."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What survives a crash."""

    every: int | None = None
    """Steps between checkpoints, besides those at the ends of epochs, which are left out where they would take
    more than 1 % of the time."""
    keep: int = 2
    """How many of the newest checkpoints stay."""
    milestone_epochs: int | None = None
    """Epochs between checkpoints that stay for good."""


@dataclass(frozen=True)
class ProbeConfig:
    """Measuring while training, with no effect on it."""

    every: int = 1
    """Epochs between measurements; the last step has one in any case."""
    anomaly: Path | None = None
    """A small set in MVTec AD's layout to find anomalies in, roughly as PaDiM does: image AUROC and pixel AP."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every recipe has."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    spd: SpdConfig = SpdConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    probe: ProbeConfig = ProbeConfig()
    out: Path
    """The run's folder: config.json, metrics.jsonl, checkpoints/, export/."""
    seed: int = 0
    """Decides the initial weights, the order of the data and every augmentation."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the passes through the model. bf16 gains on a CPU, too, where it has avx512_bf16 or amx
    (ResNet-18 a quarter to two fifths of the time, MobileNetV2 nothing)."""
    compile: bool = False
    """Compile the model with torch.compile: a slow first step, then faster; on a CPU a ResNet-18 gained nothing."""
    resume: Literal["auto", "never"] = "auto"
    """auto goes on from the newest valid checkpoint in the run's folder; never refuses a folder that holds a run."""
    print_config: bool = False
    """Print the resolved configuration as JSON and stop."""
    preview: Path | None = None
    """Write a sheet of views to this PNG file and stop: what the model would see."""
    max_hours: float | None = None
    """Save and exit with code 75 after so many hours, within a scheduler's time limit; the same command goes on."""
    timeout_minutes: float = 10.0
    """Of several processes: a job in which one makes no progress for so long ends, and says which. Longer than a
    step, a validation or a save may take."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also send the metrics to a tracker, through accelerate; it has to be installed."""
    plan: bool = False
    """Take a few steps, print what the whole run would take (time, memory), and stop; --out is not touched."""
    on_collapse: Literal["stop", "continue"] = "stop"
    """What to do when the embeddings of a self-supervised run have collapsed; the state is saved either way."""
    log_every: int = 10
    """Steps between the lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option."""
        for option, value, least in (
            ("--data.image-size", self.data.image_size, 32),
            ("--data.workers", self.data.workers, 0),
            ("--optim.epochs", self.optim.epochs, 1),
            ("--optim.batch-size", self.optim.batch_size, 2),
            ("--optim.accumulate", self.optim.accumulate, 1),
            ("--log-every", self.log_every, 1),
            ("--checkpoint.keep", self.checkpoint.keep, 1),
            ("--checkpoint.every", self.checkpoint.every or 1, 1),
            ("--checkpoint.milestone-epochs", self.checkpoint.milestone_epochs or 1, 1),
            ("--probe.every", self.probe.every, 1),
            ("--timeout-minutes", self.timeout_minutes, 0.01),
            ("--spd.weight", self.spd.weight, 0),
        ):
            if value < least:
                raise SpdError(f"{option} {value}: it must be at least {least}")
        if self.spd.anchor == "crop" and self.spd.symmetric:
            raise SpdError("--spd.anchor crop and --spd.symmetric exclude each other: there is one crop anchor")
