"""Folding changes no feature, whatever the network does with what it is folded into."""

import pytest
import timm
import torch
from torch import nn

from eval.backbone.features import Extractor
from eval.backbone.folding import folded
from tests.eval.helpers import tiny_export


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def lived(network):
    """Statistics as after training: those of a new network fold to almost nothing."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.normal_(0.3, 0.5)
            module.running_var.uniform_(0.2, 3)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "mobilenetv2_035", "resnet10t"])
def test_folded_timm_networks_give_the_same_maps(architecture):
    network = lived(timm.create_model(architecture))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def maps(model):
        return model.forward_intermediates(images, intermediates_only=True)

    lighter = folded(network, maps)
    assert norms(lighter) <= 1 < norms(network)  # the one of a head that maps need not
    for a, b in zip(maps(network), maps(lighter), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def test_the_extractor_folds_and_agrees_with_timm(tmp_path):
    export = tiny_export(tmp_path)
    extractor = Extractor(str(export), 64, (8, 16))
    images = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    plain = timm.create_model(f"local-dir:{export}", pretrained=True, features_only=True, out_indices=extractor.layers)
    with torch.no_grad():
        expected = plain.eval()(extractor.normalised(images))
    for a, b in zip(expected, extractor(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    assert norms(extractor.network) < norms(timm.create_model("test_resnet"))


class Odd(nn.Module):
    """What a convolution gives is also used before its normalisation, or the normalisation is looked into."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        features = self.conv(images)
        if self.kind == "looked into" and self.norm.eps > 1:
            return [features]
        return [self.norm(features) + (features if self.kind == "used twice" else 0)]


@pytest.mark.parametrize("kind", ["used twice", "looked into"])
def test_a_network_that_folding_would_change_stays(kind):
    network, images = lived(Odd(kind)), torch.rand(1, 3, 8, 8)
    before = network(images)[0]
    assert folded(network, lambda model: model(images)) is network
    assert torch.equal(network(images)[0], before)
