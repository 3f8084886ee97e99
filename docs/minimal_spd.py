"""All of SPot-the-Difference (SPD) pre-training on top of SimSiam, in one file. Run it on a folder of photographs:

    python docs/minimal_spd.py photos/ --arch resnet18 --size 64 --epochs 2 --out backbone.safetensors

This file is for reading. It makes one view at a time; `python -m train simsiam` makes the same views in batches and
computes the same losses. tests/docs/test_minimal_spd.py compares the two.
"""

import argparse
import math
from itertools import permutations
from pathlib import Path
from random import random  # the only source of randomness in the weak augmentation and in SmoothBlend

import timm
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

# ---- Views. An image is a float tensor (3, S, S) with values in [0, 1]. ---------------------------------------------

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std that timm backbones expect


def uniform(low: float, high: float) -> float:
    """A random number between `low` and `high`."""
    return low + (high - low) * random()


def log_uniform(low: float, high: float) -> float:
    """A random number between `low` and `high` whose logarithm is uniform."""
    return math.exp(uniform(math.log(low), math.log(high)))


def gray(image: Tensor) -> Tensor:
    """Luma, (3, H, W) to (1, H, W)."""
    return (torch.tensor([0.2989, 0.587, 0.114])[:, None, None] * image).sum(0, keepdim=True)


def color_jitter(image: Tensor, strengths: tuple[float, ...], patch=...) -> Tensor:
    """Change brightness, contrast, saturation and hue, in random order; contrast pivots on the mean luma of `patch`."""
    brightness, contrast, saturation = (uniform(1 - strength, 1 + strength) for strength in strengths[:3])
    hue = uniform(-strengths[3], strengths[3])
    operations = (
        lambda x: x * brightness,
        lambda x: torch.lerp(gray(x[patch]).mean(), x, contrast),
        lambda x: torch.lerp(gray(x), x, saturation),
        lambda x: TF.adjust_hue(x, hue),
    )
    for i in list(permutations(range(4)))[int(random() * 24)]:
        image = operations[i](image).clamp(0, 1)
    return image


def strong(size: int) -> v2.Transform:
    """The augmentation of SimSiam and MoCo v2. Its two views of a photograph are the anchor and the second view."""
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(2 * (size // 20) + 1, sigma=(0.1 * size / 224, 2 * size / 224))], p=0.5),
    ])  # fmt: skip


def weak(image: Tensor) -> Tensor:
    """A slight global change. Positive and negative both get one, so it does not give the negative away."""
    size = image.shape[-1]
    area, aspect = uniform(0.8, 1.0), log_uniform(0.9, 1.1)
    height, width = (min(1, math.sqrt(area * ratio)) * size for ratio in (1 / aspect, aspect))
    top, left = random() * (size - height), random() * (size - width)
    pixel = torch.arange(size) + 0.5  # enlarge the crop to the full size, bilinearly, without reading outside of it
    rows = (top + pixel * height / size).clamp(top + 0.5, top + height - 0.5) * 2 / size - 1
    columns = (left + pixel * width / size).clamp(left + 0.5, left + width - 0.5) * 2 / size - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]
    image = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    if random() < 0.5:
        image = image.flip(-1)
    if random() < 0.3:  # too little blur to hide the edge of a patch
        sigma = uniform(max(0.3, 0.3 * size / 224), max(0.3, 0.5 * size / 224))  # less than 0.3 pixels changes nothing
        image = TF.gaussian_blur(image, 2 * math.ceil(5 * sigma) + 1, sigma)
    return color_jitter(image, (0.1, 0.1, 0.1, 0.02)) if random() < 0.8 else image


def smoothblend(image: Tensor) -> Tensor:
    """Copy a small patch, recolour it, and blend it in elsewhere: the difference that the network learns to spot."""
    size = image.shape[-1]
    # 1. Choose a patch of 0.3 to 3 % of the image, at least 4 pixels wide.
    area, aspect, smallest = log_uniform(0.003, 0.03) * size**2, log_uniform(0.3, 3.3), max(4, 0.02 * size)
    sides = math.sqrt(area * aspect), math.sqrt(area / aspect)
    height, width = (round(min(max(side, smallest), size / 2)) for side in sides)
    source_y, source_x = int(random() * (size - height + 1)), int(random() * (size - width + 1))
    # 2. Choose a place for it. Of four tries take the first that overlaps the source by at most half.
    places = [(int(random() * (size - height + 1)), int(random() * (size - width + 1))) for _ in range(4)]
    overlaps = [max(0, 1 - abs(y - source_y) / height) * max(0, 1 - abs(x - source_x) / width) for y, x in places]
    y, x = next((place for place, overlap in zip(places, overlaps, strict=True) if overlap <= 0.5), places[0])
    # 3. The foreground is the whole image, shifted so that the patch lies in its place, with the patch's new colours.
    #    (The paper's is black outside the patch, which leaves a dark halo under the soft edge.)
    rows = (torch.arange(size) + source_y - y).clamp(0, size - 1)
    columns = (torch.arange(size) + source_x - x).clamp(0, size - 1)
    patch = (slice(None), slice(y, y + height), slice(x, x + width))
    foreground = color_jitter(image[:, rows[:, None], columns], (0.3, 0.3, 0.3, 0.1), patch)

    # 4. Alpha is 1 on the patch and 0 elsewhere, then blurred. The blur of a box has a closed form.
    def soft(start: int, length: int) -> Tensor:
        pixel, scale = torch.arange(size) + 0.5, math.sqrt(0.5) / max(0.5, 0.15 * min(height, width))
        return (torch.erf((pixel - start) * scale) - torch.erf((pixel - start - length) * scale)) / 2

    alpha = soft(y, height)[:, None] * soft(x, width)
    alpha = torch.where(alpha < 1 / 512, 0, alpha)
    # 5. Blend. Where the patch happens to equal what it covers, shift the brightness instead: no change, no lesson.
    blended = (1 - alpha) * image + alpha * foreground
    if (blended - image).abs().max() < 2 / 255:
        covered = (alpha * image).mean() / alpha.mean()
        blended = (image + alpha * (0.1 if covered < 0.5 else -0.1)).clamp(0, 1)
    return blended


# ---- Losses. An embedding z = projector(backbone(view)) has shape (B, D); p = predictor(z). --------------------------


def spd_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Pull the anchor towards its weak augmentation, push it away from the perturbed one. All three learn."""
    return (F.cosine_similarity(anchor, negative) - F.cosine_similarity(anchor, positive)).mean()


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Two strong views predict each other; the targets are constants (Chen & He, CVPR 2021)."""
    return -(F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())).mean() / 2


class SimSiamWithSPD(nn.Module):
    """A timm backbone with SimSiam's projector and predictor."""

    def __init__(self, arch: str, dim: int = 2048, bottleneck: int = 512) -> None:
        """Build the network with random weights."""
        super().__init__()

        def hidden(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]

        self.backbone = timm.create_model(arch, num_classes=0)
        width = self.backbone.num_features
        last = nn.Linear(width, dim, bias=False), nn.BatchNorm1d(dim, affine=False)
        self.projector = nn.Sequential(*hidden(width, width), *hidden(width, width), *last)
        self.predictor = nn.Sequential(*hidden(dim, bottleneck), nn.Linear(bottleneck, dim))

    def forward(self, anchor: Tensor, second: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Both losses of a batch of normalised views, each (B, 3, S, S)."""
        z1, z2 = (self.projector(self.backbone(view)) for view in (anchor, second))
        both = torch.cat([positive, negative])  # one pass, so that batch norm cannot tell them apart
        z_positive, z_negative = self.projector(self.backbone(both)).chunk(2)
        base = simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)
        return base, spd_loss(z1, z_positive, z_negative)  # the projector's outputs: SPD does not use the predictor


# ---- Training. ------------------------------------------------------------------------------------------------------


def make_views(photo: Tensor, augment: v2.Transform) -> tuple[Tensor, ...]:
    """The four views of a photograph, uint8 (3, H, W): anchor, second view, positive, negative."""
    anchor, second = augment(photo), augment(photo)
    return anchor, second, weak(anchor), smoothblend(weak(anchor))  # the weak augmentations differ


def pretrain(folder: str, arch: str, size: int, epochs: int, eta: float = 0.1, batch: int = 32) -> SimSiamWithSPD:
    """Train on all images of a folder. `eta` is the weight of the SPD loss; 0.1 is the paper's."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    model, augment, step, peak = SimSiamWithSPD(arch), strong(size), 0, 0.05 * batch / 256
    encoder = [*model.backbone.parameters(), *model.projector.parameters()]
    groups = [{"params": encoder}, {"params": model.predictor.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=peak, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for chosen in torch.randperm(len(files))[: len(files) // batch * batch].split(batch):
            photos = [TF.pil_to_tensor(Image.open(files[i]).convert("RGB")) for i in chosen]
            views = [torch.stack(view) for view in zip(*(make_views(photo, augment) for photo in photos), strict=True)]
            loss_base, loss_spd = model(*(TF.normalize(view, *IMAGENET) for view in views))
            optimizer.zero_grad()
            (loss_base + eta * loss_spd).backward()
            progress, step = step / (epochs * (len(files) // batch)), step + 1
            optimizer.param_groups[0]["lr"] = peak * (1 + math.cos(math.pi * progress)) / 2  # the predictor's stays
            optimizer.step()
            print(f"step {step}: SimSiam {loss_base:.3f}, SPD {loss_spd:+.4f}")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SimSiam with SPot-the-Difference on a folder of images.")
    parser.add_argument("folder")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", default="backbone.safetensors")
    args = parser.parse_args()
    trained = pretrain(args.folder, args.arch, args.size, args.epochs, batch=args.batch)
    save_file(trained.backbone.state_dict(), args.out)
