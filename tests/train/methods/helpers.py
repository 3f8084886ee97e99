"""A backbone, views and options that the tests of the methods share."""

import timm
import torch
from torch import Tensor, nn

from tests.train.helpers import ARCH
from train.config import SpdConfig

COSINE, CROSS_ENTROPY = SpdConfig(loss="cosine"), SpdConfig(loss="cross_entropy")


def backbone() -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=0)
    return model, model.num_features


def views(*names: str, batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, 3, 32, 32, generator=generator) for name in names}
