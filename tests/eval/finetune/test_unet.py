"""The networks: the weights under test are in them, their heads depend on the seed, the U-Net's loss is the paper's."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from eval.finetune.two_class import TwoClassPredictor
from eval.finetune.unet import focal_loss
from tests.eval.helpers import TINY, tiny_export


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_the_weights_under_test_are_in_the_networks_to_the_bit(arch, tmp_path):
    export = tiny_export(tmp_path / "export", arch=arch)
    stored = load_file(export / "model.safetensors")
    features = timm.create_model(f"local-dir:{export}", pretrained=True, features_only=True).eval()
    unet = TwoClassPredictor(str(export), "unet", replace(TINY, unet_size=64)).network(0).body.eval()
    encoder = unet.encoder.model.state_dict()
    assert encoder.keys() == features.state_dict().keys()
    for name, tensor in features.state_dict().items():
        assert torch.equal(encoder[name], tensor), name
    images = torch.rand(1, 3, 64, 64)
    deepest = unet.encoder(images)[-1]
    assert torch.equal(deepest, features(images)[-1])
    classifier = TwoClassPredictor(str(export), "classifier", TINY).network(0).body.state_dict()
    assert stored.keys() <= classifier.keys()
    for name, tensor in stored.items():
        assert torch.equal(classifier[name], tensor), name


def test_heads_are_the_same_for_all_weights_and_differ_between_seeds(tmp_path):
    one, other = (
        TwoClassPredictor(str(tiny_export(tmp_path / str(seed), seed)), "unet", TINY) for seed in (0, 1)
    )  # fmt: skip
    heads = [n.body.decoder.state_dict() for n in (one.network(5), other.network(5), one.network(6))]
    convolution = "blocks.0.conv1.0.weight"
    assert torch.equal(heads[0][convolution], heads[1][convolution])
    assert not torch.equal(heads[0][convolution], heads[2][convolution])


def test_focal_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 3, (2, 5, 5)), rng.random((2, 5, 5)) < 0.3
    p = 1 / (1 + np.exp(-logits))
    right = np.where(truth, p, 1 - p)
    expected = np.mean(-((1 - right) ** 2) * np.log(right))
    found = focal_loss(torch.tensor(logits), torch.tensor(truth, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-5)
