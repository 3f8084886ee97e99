"""Rescaled maps in a network that computes the same."""

import pytest
import timm
import torch

from spd_weights.errors import SpdError
from train.methods.rescale import rescaled

STAGES = ["blocks.1", "blocks.2", "blocks.4"]


def test_maps_are_scaled_and_the_output_stays_to_the_bit():
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_050", num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    factors = (0.125, 0.5, 0.03125)
    other = rescaled(model, STAGES, factors)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(other(images), model(images))
        maps, ours = (
            m.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True) for m in (model, other)
        )
        for before, after, factor in zip(maps, ours, factors, strict=True):
            assert torch.equal(after, before * factor)


@pytest.mark.parametrize(
    ("arch", "stages", "factors"),
    [
        ("mobilenetv2_050", STAGES, (1.0, 0.5)),
        ("mobilenetv2_050", STAGES, (1.0, 0.5, -1.0)),
        ("mobilenetv2_050", ["blocks.6"], (0.5,)),  # read by a convolution outside the stages
        ("resnet18", ["layer1"], (0.5,)),
        ("mobilenetv3_small_050", ["blocks.0"], (0.5,)),  # ends with an activation
    ],
)
def test_what_cannot_be_rescaled_is_refused(arch: str, stages: list[str], factors: tuple[float, ...]):
    with pytest.raises(SpdError, match=r"adapt\.scales"):
        rescaled(timm.create_model(arch, num_classes=0), stages, factors)
