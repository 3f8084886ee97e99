"""MoCo against its formula: loss, queue, key encoder."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spd_weights.errors import SpdError
from tests.train.methods.helpers import COSINE, backbone, views
from train.methods.moco import MoCoMethod
from train.recipes import MoCoConfig


def moco(queue: int = 12, **changes: object) -> MoCoMethod:
    return MoCoMethod(*backbone(), dataclasses.replace(MoCoConfig(dim=8, queue_size=queue), **changes), COSINE, 4)


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
        key = method(batch)["keys"]
        torch.testing.assert_close(key, F.normalize(method.key_projector(method.key_backbone(batch["second"]))))
        method.after_step(key)
        entered.append(key)
        if i < 3:
            torch.testing.assert_close(method.queue[4 * i : 4 * i + 4], key)
    torch.testing.assert_close(method.queue, torch.cat([entered[3], entered[1], entered[2]]))
    assert int(method.queue_ptr) == 4


def test_moco_key_encoder_is_a_moving_average_of_parameters():
    method = moco(momentum=0.9).train()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in method.key_backbone.parameters()]
    method.after_step(method(views("anchor", "second"))["keys"])
    for old, new, target in zip(before, method.key_backbone.parameters(), method.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)


def test_moco_spd_uses_the_query_encoder_and_leaves_the_queue_alone():
    method = moco().train()
    batch = views("anchor", "second", "positive", "negative")
    twin = copy.deepcopy(method)
    out = method(batch)
    assert torch.equal(out["keys"], twin({name: batch[name] for name in ("anchor", "second")})["keys"])
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
