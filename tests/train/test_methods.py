"""MoCo, SimCLR, supervised and the form of SPD, each against its formula written out."""

import copy
import dataclasses
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_weights.errors import SpdError
from tests.train.helpers import ARCH
from train.config import SpdConfig
from train.methods.moco import MoCoMethod
from train.methods.simclr import SimCLRMethod, nt_xent
from train.methods.simsiam import SimSiamMethod
from train.methods.spd import SpotTheDifference, spd_loss, spot_loss
from train.methods.supervised import SupervisedMethod
from train.recipes import MoCoConfig, SimCLRConfig, SimSiamConfig

COSINE, CROSS_ENTROPY = SpdConfig(loss="cosine"), SpdConfig(loss="cross_entropy")


def backbone() -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=0)
    return model, model.num_features


def views(*names: str, batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, 3, 32, 32, generator=generator) for name in names}


def moco(queue: int = 12, **changes: object) -> MoCoMethod:
    return MoCoMethod(*backbone(), dataclasses.replace(MoCoConfig(dim=8, queue_size=queue), **changes), COSINE, 4)


def test_nt_xent_is_the_sum_over_pairs():
    z1, z2 = (torch.randn(5, 6, dtype=torch.double, requires_grad=True) for _ in range(2))
    z = [F.normalize(row, dim=0) for row in (*z1, *z2)]
    expected = torch.zeros((), dtype=torch.double)
    for i in range(10):
        partner = (i + 5) % 10
        others = sum(torch.exp(z[i] @ z[k] / 0.3) for k in range(10) if k != i)
        expected = expected - torch.log(torch.exp(z[i] @ z[partner] / 0.3) / others) / 10
    ours = nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(expected, (z1, z2)), strict=True):
        torch.testing.assert_close(a, b)


def test_nt_xent_of_equal_views_is_chance():
    same = torch.ones(7, 3)
    assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(13))


def test_simclr_is_nt_xent_of_one_joint_pass():
    method = SimCLRMethod(*backbone(), SimCLRConfig(projector_dim=8), COSINE).train()
    batch = views("anchor", "second")
    z = method.projector(method.backbone(torch.cat([batch["anchor"], batch["second"]])))
    torch.testing.assert_close(method(batch)["loss_base"], nt_xent(*z.chunk(2), 0.1))
    assert [type(m).__name__ for m in method.projector][::3] == ["Linear"] * 3
    assert isinstance(method.projector[-1], nn.BatchNorm1d)


def test_moco_is_info_nce_against_the_queue_as_it_was():
    method = moco().eval()  # nothing moves in evaluation mode
    batch, queue = views("anchor", "second"), method.queue.clone()
    q = F.normalize(method.projector(method.backbone(batch["anchor"])))
    k = F.normalize(method.key_projector(method.key_backbone(batch["second"])))
    expected = torch.zeros(())
    for i in range(4):
        scores = torch.stack([q[i] @ k[i], *(q[i] @ other for other in queue)]) / 0.2
        expected = expected - F.log_softmax(scores, 0)[0] / 4
    out = method(batch)
    torch.testing.assert_close(out["loss_base"], expected)
    out["loss_base"].backward()
    assert next(method.backbone.parameters()).grad.abs().sum() > 0
    assert all(p.grad is None for p in (*method.key_backbone.parameters(), *method.key_projector.parameters()))


def test_moco_queue_is_first_in_first_out_and_wraps_around():
    method = moco(queue=12).train()
    entered = []
    for i in range(4):
        batch = views("anchor", "second")
        key = copy.deepcopy(method)._keys(batch["second"])  # a copy, because keys move the encoder
        method(batch)
        entered.append(key)
        if i < 3:
            torch.testing.assert_close(method.queue[4 * i : 4 * i + 4], key)
    torch.testing.assert_close(method.queue, torch.cat([entered[3], entered[1], entered[2]]))
    assert int(method.position) == 4


def test_moco_key_encoder_is_a_moving_average_of_parameters():
    method = moco(momentum=0.9).train()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in method.key_backbone.parameters()]
    method(views("anchor", "second"))
    for old, new, target in zip(before, method.key_backbone.parameters(), method.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)


def test_moco_spd_uses_the_query_encoder_and_leaves_the_queue_alone():
    method = moco().train()
    batch = views("anchor", "second", "positive", "negative")
    twin = copy.deepcopy(method)
    out = method(batch)
    twin({name: batch[name] for name in ("anchor", "second")})
    assert torch.equal(method.queue, twin.queue)
    out["loss_spd"].backward()
    assert next(method.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize("queue", [10, 2])
def test_a_queue_that_does_not_hold_whole_batches_is_refused(queue: int):
    with pytest.raises(SpdError, match=r"--moco\.queue-size"):
        moco(queue=queue)


@pytest.mark.parametrize(("version", "layers"), [("v1", 1), ("v2", 2)])
def test_moco_heads(version: str, layers: int):
    method = moco(version=version)
    assert sum(isinstance(m, nn.Linear) for m in method.projector) == layers
    assert not any(isinstance(m, nn.BatchNorm1d) for m in method.projector)


def test_supervised_is_cross_entropy_and_spots_the_difference():
    method = SupervisedMethod(*backbone(), 3, CROSS_ENTROPY).eval()
    batch = {**views("anchor", "positive", "negative"), "labels": torch.tensor([0, 2, 1, 2])}
    out = method(batch)
    logits = method.classifier(method.backbone(batch["anchor"]))
    torch.testing.assert_close(out["loss_base"], F.cross_entropy(logits, batch["labels"]))
    told = [method.spd.classifier(method.backbone(batch[name])) for name in ("positive", "negative")]
    expected = -(F.log_softmax(told[0], 1)[:, 0].sum() + F.log_softmax(told[1], 1)[:, 1].sum()) / 8
    torch.testing.assert_close(out["loss_spd"], expected, atol=1e-5, rtol=1e-5)


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


def test_losses_keep_full_precision_under_autocast():
    z = [torch.randn(5, 64) for _ in range(4)]
    z[2], z[3] = z[1] + 1e-4 * z[2], z[1] + 1e-4 * z[3]  # closer than bfloat16 can tell
    method = moco().eval()
    batch = views("anchor", "second")
    plain = nt_xent(z[0], z[1], 0.1), spd_loss(z[1], z[2], z[3])["loss_spd"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(z[0], z[1], 0.1), spd_loss(z[1], z[2], z[3])["loss_spd"]
        assert method(batch)["loss_base"].dtype == torch.float32
    assert plain == mixed
    assert plain[1] != 0


# -- against lightly, where it is installed: pip install lightly ------------------------------------------------


def same(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


def test_nt_xent_equals_lightlys():
    lightly = pytest.importorskip("lightly.loss", reason="pip install lightly: an independent implementation")
    z1, z2 = (torch.randn(8, 16, requires_grad=True) for _ in range(2))
    same(nt_xent(z1, z2, 0.2), lightly.NTXentLoss(temperature=0.2)(z1, z2), (z1, z2))


def test_simsiam_loss_equals_lightlys():
    lightly = pytest.importorskip("lightly.loss", reason="pip install lightly: an independent implementation")
    torch.manual_seed(0)
    method = SimSiamMethod(*backbone(), SimSiamConfig(projector_dim=32, predictor_dim=8), COSINE).eval()
    batch, criterion = views("anchor", "second"), lightly.NegativeCosineSimilarity()
    z1, z2 = method.embed(batch["anchor"]), method.embed(batch["second"])
    theirs = (criterion(method.predictor(z1), z2.detach()) + criterion(method.predictor(z2), z1.detach())) / 2
    same(method(batch)["loss_base"], theirs, tuple(method.predictor.parameters()))


def test_moco_loss_equals_lightlys_with_the_same_memory_bank():
    lightly = pytest.importorskip("lightly.loss", reason="pip install lightly: an independent implementation")
    method = moco().eval()
    batch = views("anchor", "second")
    criterion = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(12, 8))
    criterion.memory_bank.bank = method.queue.clone()
    criterion.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    query = method.projector(method.backbone(batch["anchor"]))
    key = method.key_projector(method.key_backbone(batch["second"]))
    same(method(batch)["loss_base"], criterion(query, key.detach()), tuple(method.projector.parameters()))
