"""Every option of a run, with its default, its unit and the reason for the default.

`python -m train RECIPE --help` prints these texts. It keeps their line breaks, so each line is a sentence. Strengths
given in pixels hold at 224 px and scale with the image size.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spd_weights.errors import SpdError

from .limits import check_limits

Range = tuple[float, float]
Jitter = tuple[float, float, float, float]


@dataclass(frozen=True)
class DataConfig:
    """The images to train on."""

    train: str
    """A folder of images (searched recursively), of parquet files or of webdataset tars, or hf:owner/dataset[:config].
    Parquet files on the Hub are read in ranges, without a local copy."""
    name: str | None = None
    """What the card calls the training images; by default, the name of their folder or data set."""
    val: str | None = None
    """Labelled images to measure on every --probe.every epochs.
    Top-1 and top-5 accuracy for supervised and linear, nearest-neighbour accuracy without labels."""
    image_size: int = 224
    """Side of the square crops, in pixels."""
    workers: int = field(default_factory=lambda: min(8, max(1, len(os.sched_getaffinity(0)) - 1)))
    """Worker processes that decode and crop images, per training process; 0 decodes in the training process."""
    max_bad_fraction: float = 0.01
    """Unreadable images are skipped and named. If they exceed this fraction of the data set, the run stops."""


@dataclass(frozen=True)
class ModelConfig:
    """The backbone."""

    arch: str = "resnet50"
    """Any timm model with pooled features."""
    init: str = "none"
    """Starting weights: none, timm (the architecture's default weights), a weights name, hf-hub:… or local-dir:…."""
    zero_init_residual: bool = True
    """Start the last norm of each residual branch at zero (ResNets), if --model.init is none.
    The default is that of the official code: on for simsiam and simclr, off for moco and supervised."""
    sync_batch_norm: bool = True
    """With several GPUs, compute batch statistics over all of them.
    The default is that of the official code: on for simsiam and simclr, off for moco and supervised.
    For moco it would undo ShuffleBN."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: saves memory, takes about a third more time."""


@dataclass(frozen=True)
class OptimConfig:
    """Length, batch size and learning rate. The batch is global: no value depends on the number of processes."""

    epochs: int = 100
    """Passes over the data. The learning-rate schedule ends with the last one."""
    steps: int | None = None
    """Length of the run and of its learning-rate schedule in steps, instead of --optim.epochs."""
    max_steps: int | None = None
    """Stop after this many steps. Does not change the schedule."""
    batch_size: int = 512
    """Images per step, over all processes."""
    accumulate: int = 1
    """Number of parts in which a process computes its share of the batch, to save memory.
    Batch norm sees one part at a time, and SimCLR takes its negatives from one part.
    The gradient is therefore that of smaller batches."""
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    """lars and adamw exclude biases and norms from weight decay; lars also from its layer-wise scaling."""
    lr: float = 0.05
    """Learning rate for a batch of 256."""
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How the learning rate grows with the batch size."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine falls to 0 over the run; step divides by 10 at each of --optim.milestones."""
    milestones: tuple[int, ...] = ()
    """Epochs at which the schedule step divides the learning rate by 10; by default after each third of the run."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from 0 before the schedule starts.
    This includes the learning rate of SimSiam's predictor."""
    momentum: float = 0.9
    """Momentum of sgd and lars."""
    weight_decay: float = 1e-4
    """L2 penalty; with sgd it applies to all parameters."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of the strong views. Defaults: MoCo v2 and SimSiam."""

    crop_area: Range = (0.2, 1.0)
    """Fraction of the image that a crop covers."""
    jitter: Jitter = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter."""
    jitter_probability: float = 0.8
    """Probability of colour jitter."""
    gray_probability: float = 0.2
    """Probability of conversion to greyscale."""
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the Gaussian blur, in pixels at 224 px."""
    blur_probability: float = 0.5
    """Probability of blur."""


@dataclass(frozen=True)
class SpdConfig:
    """SPot-the-Difference (Zou et al., ECCV 2022): pull an image towards its weak global augmentation and
    push it away from a locally perturbed copy. The paper gives no strengths; they are our choices."""

    weight: float = 0.1
    """Weight η of the SPD loss (the paper's best of 0.1, 0.5, 1). 0 is exactly the base method, and costs no more."""
    loss: Literal["auto", "cosine", "cross_entropy"] = "auto"
    """cosine compares embeddings.
    cross_entropy trains a binary classifier on pooled features to tell perturbed images from others.
    auto follows the paper: cross_entropy for supervised, cosine for the others."""
    perturbation: Literal["smoothblend", "smoothblend_literal", "cutpaste", "cutpaste_scar", "flaws"] = "smoothblend"
    """How the negative is perturbed.
    smoothblend_literal is the paper's text and leaves a dark halo around the patch; smoothblend does not.
    The patch options below apply to both. CutPaste keeps its paper's values.
    flaws are two spots or scratches of several kinds (ours), with the area and the jitter of the patch."""
    anchor: Literal["strong", "crop"] = "strong"
    """The anchor: the strong view of the base loss (the paper's x_i), or its crop.
    The crop is taken before all other augmentation, and costs one more forward pass."""
    symmetric: bool = False
    """Use both strong views as anchors, at twice the cost. The paper describes one."""
    detach_anchor: bool = False
    """Stop the gradient through the anchor. The paper's formula has no stop-gradient."""
    batch_norm: Literal["together", "apart"] = "together"
    """together computes batch statistics over positives and negatives jointly.
    The statistics can then neither reveal nor remove the difference.
    apart computes them for positives and negatives separately."""
    layer: int | None = None
    """Stage of the backbone, counted from 0, whose pooled output the cross_entropy classifier reads.
    By default it reads the final features. The paper says "a ResNet-50 feature layer".
    Earlier stages resolve smaller details."""
    patch_area: Range = (0.003, 0.03)
    """Fraction of the image that the patch covers, log-uniform: from a CutPaste scar to a small CutPaste patch."""
    patch_aspect: Range = (0.3, 3.3)
    """Height over width of the patch, log-uniform (CutPaste's range)."""
    patch_min_side: float = 0.02
    """Minimum side of the patch, as a fraction of the image's side."""
    patch_min_pixels: float = 4.0
    """Minimum side of the patch, in pixels at any image size: the first convolution loses smaller ones."""
    patch_jitter: Jitter = (0.3, 0.3, 0.3, 0.1)
    """Colour jitter of the patch (CutPaste found 0.2 to 0.3 better than 0.1)."""
    alpha_sigma: float = 0.15
    """Blur of the alpha map, as a fraction of the patch's short side: soft edges around a fully pasted core."""
    weak_crop_area: Range = (0.8, 1.0)
    """Weak augmentation: fraction of the anchor that is kept."""
    weak_crop_aspect: Range = (0.9, 1.1)
    """Weak augmentation: width over height of the crop."""
    weak_flip_probability: float = 0.5
    """Weak augmentation: probability of a horizontal flip."""
    weak_jitter: Jitter = (0.1, 0.1, 0.1, 0.02)
    """Weak augmentation: strength of brightness, contrast, saturation and hue jitter."""
    weak_jitter_probability: float = 0.8
    """Weak augmentation: probability of colour jitter."""
    weak_blur_sigma: Range = (0.3, 0.5)
    """Weak augmentation: sigma of the blur in pixels at 224 px, too small to wipe out the edge of a patch.
    At other sizes it is scaled, but never below 0.3 px.
    A narrower blur changes an edge by less than one grey level."""
    weak_blur_probability: float = 0.3
    """Weak augmentation: probability of blur."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every: int | None = None
    """Steps between checkpoints.
    A checkpoint is also saved after each epoch, unless that would take more than 1 % of the time."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    milestone_epochs: int | None = None
    """Epochs between checkpoints that are kept for good."""


@dataclass(frozen=True)
class ProbeConfig:
    """Measurements during training. They do not affect the run."""

    every: int = 1
    """Epochs between measurements; there is always one after the last step."""
    knn_bank: str | None = None
    """Labelled images among which to find the nearest neighbours of --data.val, usually the training images.
    By default, each validation image is compared with the others.
    All features of the bank are kept in memory."""
    knn_neighbours: int = 20
    """Number of nearest neighbours that vote (20 and 200 are usual)."""
    knn_temperature: float = 0.07
    """A neighbour of cosine similarity s votes with weight exp(s / temperature)."""
    anomaly: Path | None = None
    """A small data set in MVTec AD's layout in which to find anomalies, roughly as PaDiM does.
    Logs image AUROC and pixel AP."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options that every recipe has."""

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
    """Determines the initial weights, the order of the data and every augmentation."""
    # Matrix products keep float32 because the contrastive losses compare their results.
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward and backward passes.
    On a GPU, no means TF32 for convolutions and float32 for matrix products; bf16 is faster.
    On CPUs with avx512_bf16 or amx, bf16 saves a ResNet-18 25 to 40 % of the time, a MobileNetV2 none."""
    cudnn_benchmark: bool = False
    """Let cuDNN time its convolution algorithms and use the fastest.
    The choice may differ between launches: a resumed run is then equal up to rounding, not bit-identical."""
    compile: bool = False
    """Compile the model with torch.compile: a slow first step, faster ones later.
    A ResNet-18 on a CPU gained nothing."""
    resume: Literal["auto", "never"] = "auto"
    """auto resumes from the newest valid checkpoint in --out.
    never refuses a folder that already holds a run."""
    print_config: bool = False
    """Print the resolved configuration as JSON and exit."""
    preview: Path | None = None
    """Write a sheet of views, as the model would see them, to this PNG file and exit."""
    max_hours: float | None = None
    """Save and exit with code 75 after this many hours, to stay within a scheduler's time limit.
    Run the same command again to resume."""
    timeout_minutes: float = 10.0
    """With several processes: if one makes no progress for this long, the job ends and names it.
    Must exceed the time of a step, a validation and a save together."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also send the metrics to this tracker, which must be installed, through accelerate."""
    plan: bool = False
    """Take a few steps, print an estimate of the run's time and memory, and exit. --out is not touched."""
    on_collapse: Literal["stop", "continue"] = "stop"
    """What to do if the embeddings of a self-supervised run have collapsed. The state is saved either way."""
    log_every: int = 10
    """Steps between the lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option."""
        check_limits(self)
        milestones = self.optim.milestones
        if milestones and (list(milestones) != sorted(set(milestones)) or milestones[-1] >= self.optim.epochs):
            raise SpdError(
                f"--optim.milestones {' '.join(map(str, milestones))}: they must increase and lie below --optim.epochs "
                f"{self.optim.epochs}"
            )
        if self.spd.anchor == "crop" and self.spd.symmetric:
            raise SpdError("--spd.anchor crop and --spd.symmetric exclude each other: there is only one crop anchor")
