"""The SPD losses against their formulas, and what each option changes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.train.methods.helpers import COSINE
from train.config import SpdConfig
from train.methods.spd import SpotTheDifference, spd_loss, spot_loss


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def test_spd_loss_is_the_formula():
    a, p, n = (torch.randn(9, 5, dtype=torch.double, requires_grad=True) for _ in range(3))
    out = spd_loss(a, p, n)
    expected = sum(cosine(a[i], n[i]) - cosine(a[i], p[i]) for i in range(9)) / 9
    torch.testing.assert_close(out["loss_spd"], expected)
    for ours, theirs in zip(
        torch.autograd.grad(out["loss_spd"], (a, p, n)), torch.autograd.grad(expected, (a, p, n)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    correct = sum(cosine(a[i], p[i]) > cosine(a[i], n[i]) for i in range(9)) / 9
    torch.testing.assert_close(out["spd_accuracy"].double(), correct.double())


def test_spd_loss_has_its_sign_and_range():
    a = torch.eye(4)
    out = spd_loss(a, a, -a)  # the positive is the anchor, the negative its opposite
    assert out["loss_spd"] == -2
    assert out["spd_accuracy"] == 1
    assert spd_loss(a, a, a)["loss_spd"] == 0
    assert spd_loss(a, a, a)["spd_accuracy"] == 0  # a tie is no success


def test_spot_accuracy_counts_both_classes():
    yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert spot_loss(no, yes)["spd_accuracy"] == 1
    assert spot_loss(yes, no)["spd_accuracy"] == 0
    assert spot_loss(no, no)["spd_accuracy"] == 0.5


class Recorder(nn.Module):
    """A backbone that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.flatten(1)


def run_spd(config: SpdConfig, *anchors: Tensor, **batch: Tensor) -> tuple[dict[str, Tensor], Recorder]:
    recorder = Recorder()
    return SpotTheDifference(recorder, 4, config)(recorder, nn.Identity(), batch, *anchors), recorder


def test_spd_options_choose_passes_and_anchors():
    a, b, p, n = (torch.randn(3, 4) for _ in range(4))
    together, recorder = run_spd(COSINE, a, b, positive=p, negative=n)
    assert [len(images) for images in recorder.seen] == [6]
    apart, recorder = run_spd(dataclasses.replace(COSINE, batch_norm="apart"), a, b, positive=p, negative=n)
    assert [len(images) for images in recorder.seen] == [3, 3]
    torch.testing.assert_close(together["loss_spd"], apart["loss_spd"])
    expected = (F.cosine_similarity(a, n) - F.cosine_similarity(a, p)).mean()
    torch.testing.assert_close(together["loss_spd"], expected)

    both = {"positive": torch.cat([p, p]), "negative": torch.cat([n, n])}
    symmetric, _ = run_spd(dataclasses.replace(COSINE, symmetric=True), a, b, **both)
    second = (F.cosine_similarity(b, n) - F.cosine_similarity(b, p)).mean()
    torch.testing.assert_close(symmetric["loss_spd"], (expected + second) / 2)

    own, _ = run_spd(COSINE, a, b, positive=p, negative=n, spd_anchor=b)
    torch.testing.assert_close(own["loss_spd"], second)


@pytest.mark.parametrize("detach", [True, False])
def test_the_anchor_gets_a_gradient_unless_detached(detach: bool):
    a, p, n = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    out, _ = run_spd(dataclasses.replace(COSINE, detach_anchor=detach), a, positive=p, negative=n)
    out["loss_spd"].backward()
    assert (a.grad is None) == detach
    assert p.grad.abs().sum() > 0


def test_without_spd_views_there_is_no_spd_loss():
    assert run_spd(COSINE, torch.randn(3, 4))[0] == {}
