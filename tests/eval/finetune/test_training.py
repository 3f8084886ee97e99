"""The training loop: what it shows a network, how long, and what stays frozen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.finetune.training import Network, Training, finetune
from eval.finetune.two_class import TwoClassPredictor
from tests.eval.helpers import RANDOM, TINY


@pytest.mark.parametrize("method", ["classifier", "unet"])
@pytest.mark.parametrize("freeze", ["nothing", "batchnorm", "backbone"])
def test_what_is_frozen_stays(method, freeze):
    network = TwoClassPredictor(RANDOM, method, TINY).network(0)
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    train(network, replace(TINY, freeze=freeze), masks=method == "unet")
    changed = {name for name, tensor in network.body.state_dict().items() if not torch.equal(tensor, before[name])}
    heads = ("decoder.", "segmentation_head.", "fc.")
    backbone = {name for name in changed if not name.startswith(heads)}
    assert changed - backbone
    assert any(name.endswith("running_mean") for name in backbone) == (freeze == "nothing")
    assert bool(backbone) == (freeze != "backbone")


def train(network: Network, training: Training, masks: bool, seed: int = 0) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    truth = rng.random((4, 32, 32)) < 0.1 if masks else np.array([False, True, False, True])
    finetune(network, images, truth, training, np.random.default_rng(seed), lambda done, of: None)


class OneWeight(torch.nn.Module):
    """Remembers the images it is shown; has one weight."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.shown = []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return self.scale * images[:, :1]


class Recorder(Network):
    """Remembers its targets."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.targets = []

    def loss(self, logits, truth):
        self.targets.append(truth.clone())
        return logits.sum() * 0


def test_image_and_mask_are_mirrored_together_and_every_image_seen_equally_often():
    recorder = OneWeight()
    images = np.arange(6 * 3 * 8 * 8, dtype=np.uint32).reshape(6, 3, 8, 8).astype(np.uint8)
    images[:, 0] = np.arange(6)[:, None, None] * 8 + np.arange(8)  # tells image and column
    truth = (images[:, 0] % 8) < 3
    network = Recorder(recorder, [recorder], (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
    training = Training(epochs=4, min_steps=1, batch_size=8)
    finetune(network, images.copy(), truth.copy(), training, np.random.default_rng(0), lambda done, of: None)
    shown, marked = torch.cat(recorder.shown)[:, 0].round(), torch.cat(network.targets)
    assert torch.equal(marked, (shown % 8 < 3).float())
    mirrored = shown[:, 0, 0] % 8 == 7
    assert 0 < mirrored.sum() < len(shown)
    assert len(shown) == 24
    assert torch.bincount((shown[:, 0, 0] // 8).long()).tolist() == [4] * 6


def test_length_counts_epochs_or_steps():
    assert Training(epochs=10, min_steps=200, batch_size=8).steps(660) == 825
    assert Training(epochs=10, min_steps=200, batch_size=8).steps(10) == 200
