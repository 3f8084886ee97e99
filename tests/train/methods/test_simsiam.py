"""SimSiam and the SPD loss against their formulas, written out sample by sample."""

import timm
import torch
from torch import Tensor

from tests.train.helpers import ARCH
from train.config import SpdConfig
from train.methods.simsiam import SimSiamMethod
from train.methods.spd import spd_loss
from train.recipes import SimSiamConfig

SPD = SpdConfig(loss="cosine")


def build(seed: int = 0) -> SimSiamMethod:
    torch.manual_seed(seed)
    backbone = timm.create_model(ARCH, num_classes=0)
    return SimSiamMethod(backbone, backbone.num_features, SimSiamConfig(projector_dim=32, predictor_dim=8), SPD)


def views(*names: str, batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, 3, 32, 32, generator=generator) for name in names}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def test_base_loss_is_the_formula_with_its_stop_gradient():
    method = build().train()
    batch = views("anchor", "second")
    out = method(batch)
    z1, z2 = method.embed(batch["anchor"]), method.embed(batch["second"])
    p1, p2 = method.predictor(z1), method.predictor(z2)
    expected = -sum(cosine(p1[i], z2[i].detach()) + cosine(p2[i], z1[i].detach()) for i in range(6)) / 12
    torch.testing.assert_close(out["loss_base"], expected)
    out["loss_base"].backward()
    ours = {name: p.grad.clone() for name, p in method.named_parameters()}
    method.zero_grad()
    expected.backward()
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-3)


def test_spd_is_computed_on_projector_outputs_of_one_joint_pass():
    method = build().train()
    batch = views("anchor", "second", "positive", "negative")
    out = method(batch)
    positive, negative = method.embed(torch.cat([batch["positive"], batch["negative"]])).chunk(2)
    expected = spd_loss(method.embed(batch["anchor"]), positive, negative)
    torch.testing.assert_close(out["loss_spd"], expected["loss_spd"], atol=1e-5, rtol=1e-4)


def test_without_spd_views_nothing_of_spd_is_computed():
    out = build()(views("anchor", "second"))
    assert set(out) == {"loss_base", "features"}
