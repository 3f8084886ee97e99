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


class TwoWeights(Network):
    """A pre-trained and a new number, whose gradient is always one: AdamW moves each by its learning rate per step."""

    def __init__(self):
        body = torch.nn.Linear(1, 1)
        body.weight.data.zero_()
        body.bias.data.zero_()
        head = torch.nn.Linear(1, 1, bias=False)
        head.weight.data.zero_()
        super().__init__(torch.nn.Sequential(body, head), [head], (0.0,) * 3, (1.0,) * 3)
        self.moves = []

    def forward(self, images):
        self.moves.append((self.body[0].bias.item(), self.body[1].weight.item()))
        return self.body[0].bias + self.body[1].weight.flatten() + 0 * self.body[0].weight.flatten()

    def loss(self, logits, truth):
        return logits.sum()


def test_learning_rate_warms_up_then_falls_as_a_cosine_and_is_ten_times_higher_for_new_layers():
    network, images, steps = TwoWeights(), np.zeros((4, 3, 2, 2), np.uint8), 40
    training = Training(epochs=1, min_steps=steps, batch_size=4, lr=1e-4)
    finetune(network, images, np.zeros(4, bool), training, np.random.default_rng(0), lambda done, of: None)
    network(None)
    rates = -np.diff(network.moves, axis=0)
    expected = [min(1, (t + 1) / 4) * (1 + np.cos(np.pi * t / steps)) / 2 for t in range(steps)]
    np.testing.assert_allclose(rates[:, 0], np.multiply(expected, 1e-4), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(rates[:, 1], np.multiply(expected, 1e-3), rtol=1e-3, atol=1e-8)
    assert rates[-1, 0] < 1e-6 < rates[4, 0]
