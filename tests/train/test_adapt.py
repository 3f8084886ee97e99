"""Adaptation: SPD on top of a given backbone, held close to where it started."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from spd_weights.errors import SpdError
from spd_weights.export import export_backbone
from tests.train.helpers import write_photos
from train.config import Adapt, AdaptConfig, DataConfig, ModelConfig, OptimConfig, SpdConfig
from train.loop import pretrain
from train.methods.adapt import AdaptMethod
from train.spd import spd_loss

ARCH = "mobilenetv3_small_050"  # with layers behind the last stage that is read
SPD = SpdConfig(weight=1.0, loss="cosine")


def method(seed: int = 0) -> AdaptMethod:
    torch.manual_seed(seed)
    return AdaptMethod(timm.create_model(ARCH, num_classes=0), AdaptConfig(projector_dim=8), SPD, 64).train()


def views() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(4, 3, 64, 64, generator=generator) for name in ("anchor", "positive", "negative")}


def test_losses_are_distance_from_the_start_and_spd_on_pooled_stages():
    ours, batch = method(), views()
    assert ours(batch)["loss_base"].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for parameter in ours.backbone.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    out = ours(batch)
    maps, starting = (ours._maps(model, batch["anchor"]) for model in (ours.backbone, ours.start))
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    far = sum((1 - F.cosine_similarity(a, b, dim=1)).mean() for a, b in zip(maps, starting, strict=True)) / 3
    torch.testing.assert_close(out["loss_base"], 3.0 * far)

    def embed(images: Tensor) -> Tensor:
        return ours.projector(torch.cat([m.mean((2, 3)) for m in ours._maps(ours.backbone, images)], 1))

    expected = spd_loss(*(embed(batch[name]) for name in ("anchor", "positive", "negative")))
    torch.testing.assert_close(out["loss_spd"], expected["loss_spd"], atol=1e-5, rtol=1e-4)


def test_only_what_is_read_is_trained_and_statistics_stay():
    ours = method()
    out = ours(views())
    (out["loss_base"] + out["loss_spd"]).backward()
    for name, parameter in ours.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert not any(p.requires_grad for p in (*ours.start.parameters(), *ours.backbone.conv_head.parameters()))
    assert not any(m.training for m in ours.modules() if isinstance(m, nn.BatchNorm2d))


def adapt(photos: Path, out: Path, start: Path, **changes: object) -> Path:
    config = Adapt(
        data=DataConfig(train=str(photos), image_size=64, workers=0),
        model=ModelConfig(arch=ARCH, init=f"local-dir:{start}"),
        optim=OptimConfig(epochs=1, batch_size=4, optimizer="adamw", lr=1e-3, lr_scaling="none", weight_decay=0.0),
        log_every=1,
        out=out,
        **changes,
    )
    return pretrain(config)


def test_a_run_starts_from_given_weights_and_without_spd_stays_there(tmp_path: Path):
    torch.manual_seed(3)
    record = {"architecture": ARCH, "image_size": 64, "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    start = export_backbone(timm.create_model(ARCH, num_classes=0), tmp_path / "start", record)
    photos = write_photos(tmp_path / "photos", 12)
    still = load_file(adapt(photos, tmp_path / "still", start, spd=SpdConfig(weight=0)) / "model.safetensors")
    moved = load_file(adapt(photos, tmp_path / "moved", start) / "model.safetensors")
    given = load_file(start / "model.safetensors")
    assert all(torch.allclose(still[name], given[name], atol=1e-5) for name in given)
    assert any(not torch.allclose(moved[name], given[name], atol=1e-4) for name in given)


def test_an_architecture_without_maps_is_refused():
    with pytest.raises(SpdError, match="intermediate feature maps"):
        AdaptMethod(nn.Flatten(), AdaptConfig(), SPD, 32)
