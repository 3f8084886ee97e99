"""Supervised training with SPD against its formula."""

import torch
import torch.nn.functional as F

from tests.train.methods.helpers import CROSS_ENTROPY, backbone, views
from train.methods.supervised import SupervisedMethod


def test_supervised_is_cross_entropy_and_spots_the_difference():
    method = SupervisedMethod(*backbone(), 3, CROSS_ENTROPY).eval()
    batch = {**views("anchor", "positive", "negative"), "labels": torch.tensor([0, 2, 1, 2])}
    out = method(batch)
    logits = method.classifier(method.backbone(batch["anchor"]))
    torch.testing.assert_close(out["loss_base"], F.cross_entropy(logits, batch["labels"]))
    told = [method.spd.classifier(method.backbone(batch[name])) for name in ("positive", "negative")]
    expected = -(F.log_softmax(told[0], 1)[:, 0].sum() + F.log_softmax(told[1], 1)[:, 1].sum()) / 8
    torch.testing.assert_close(out["loss_spd"], expected, atol=1e-5, rtol=1e-5)
