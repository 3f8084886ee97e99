"""Adaptation: dense SPD on the maps of a given backbone, held close to where it started."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spd_weights.catalog import find
from spd_weights.errors import SpdError
from spd_weights.files import read_json
from spd_weights.hub import weights_file
from spd_weights.release.export import export_backbone
from tests.train.helpers import assert_same_weights, metrics, write_photos
from train.config import DataConfig, ModelConfig, OptimConfig, SpdConfig
from train.data.loader import Crops
from train.data.sources import open_images
from train.distributed import channel_variance
from train.loop import pretrain
from train.methods.adapt import AdaptMethod, dense_spd_loss, distances
from train.recipes import IN_PLACE, Adapt, AdaptConfig, to_json
from train.views.views import ViewMaker

ARCH = "mobilenetv3_small_050"  # with layers behind the last stage that is read


def method(arch: str = ARCH, **options: object) -> AdaptMethod:
    torch.manual_seed(0)
    size = {"img_size": 64} if "vit" in arch else {}
    return AdaptMethod(timm.create_model(arch, num_classes=0, **size), AdaptConfig(**options), 64).train()


def views() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(4, 3, 64, 64, generator=generator) for name in ("anchor", "negative")}
    alpha = torch.zeros(4, 1, 64, 64)
    alpha[:, :, 8:40, 16:48] = 1
    return {**images, "alpha": alpha}


def test_dense_loss_is_the_log_ratio_of_a_naive_loop():
    distances = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha = torch.zeros(3, 1, 16, 16)
    alpha[0, 0, 2:9, 4:8] = 1  # half of some cells
    alpha[1, 0, 5:7, 5:7] = 0.8
    alpha[2, 0, :8] = 1
    expected, right = [], []
    for image in range(3):
        near, far, weights = [], 0.0, 0.0
        for row in range(8):
            for column in range(8):
                covered = alpha[image, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean().item()
                if covered == 0:
                    near.append(distances[image, row, column].item())
                elif covered > 0.1:
                    far += min(1.0, 2 * covered) * distances[image, row, column].item()
                    weights += min(1.0, 2 * covered)
        outside, inside = sum(near) / len(near), far / max(weights, 0.1)
        expected.append(math.log(outside + 0.003) - math.log(inside + 0.003))
        right.append(inside > outside)
    out = dense_spd_loss(distances, alpha)
    assert out["loss_spd"].item() == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert out["spd_accuracy"].item() == pytest.approx(sum(right) / 3)
    bigger = dense_spd_loss(1000 * distances, alpha)["loss_spd"]
    assert bigger.item() == pytest.approx(out["loss_spd"].item(), abs=0.1)  # a ratio


def moved(ours: AdaptMethod, by: float = 0.1) -> AdaptMethod:
    with torch.no_grad():
        for parameter in ours.backbone.parameters():
            parameter.mul_(1 + by * torch.randn_like(parameter))
    return ours


@pytest.mark.parametrize(("arch", "sides"), [(ARCH, [16, 8, 4]), ("test_vit", [4, 4, 4])])
def test_losses_are_distances_from_the_start_and_between_the_views(arch: str, sides: list[int]):
    """A plain vision transformer has maps of one size."""
    ours, batch = method(arch, keep_weight=2.0), views()
    assert ours(batch)["loss_base"].item() == pytest.approx(0, abs=1e-9)
    moved(ours)
    out = ours(batch)
    now, then, other = (
        ours._maps(model, batch[name])
        for model, name in ((ours.backbone, "anchor"), (ours.start, "anchor"), (ours.backbone, "negative"))
    )
    assert [m.shape[-1] for m in now] == sides
    units = [m.var((0, 2, 3)).sum() for m in then]
    far = [((a - b) ** 2).sum(1).mean() / unit for a, b, unit in zip(now, then, units, strict=True)]
    torch.testing.assert_close(out["loss_base"], 2.0 * sum(far) / 3)
    spd = [
        dense_spd_loss(((a - b) ** 2).sum(1) / unit, batch["alpha"])
        for a, b, unit in zip(now, other, units, strict=True)
    ]
    for name in ("loss_spd", "spd_accuracy"):
        torch.testing.assert_close(out[name], sum(stage[name] for stage in spd) / 3, atol=1e-5, rtol=1e-4)


def test_only_what_is_read_is_trained_and_statistics_stay():
    ours = method()
    out = ours(views())
    (out["loss_base"] + out["loss_spd"]).backward()
    for name, parameter in ours.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert not any(p.requires_grad for p in (*ours.start.parameters(), *ours.backbone.conv_head.parameters()))
    assert not any(m.training for m in ours.modules() if isinstance(m, nn.BatchNorm2d))


def recipe(photos: Path, out: Path, start: Path, arch: str = ARCH, **changes: object) -> Adapt:
    options = {
        "data": DataConfig(train=str(photos), image_size=64, workers=0),
        "model": ModelConfig(arch=arch, init=f"local-dir:{start}"),
        "optim": dataclasses.replace(Adapt.optim, steps=3, batch_size=4, lr=1e-3),
    }
    return Adapt(**(options | changes), log_every=1, out=out)


def test_outside_the_patch_the_views_differ_by_weak_changes_alone(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 12)
    config = recipe(photos, tmp_path / "run", tmp_path)
    batch = Crops(open_images(config.data.train), config).__getitems__([(0, i) for i in range(12)])
    made = ViewMaker(config, (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))(batch)
    assert made.keys() == {"anchor", "negative", "alpha"}
    outside = (made["alpha"] == 0).float()
    difference = ((made["negative"] - made["anchor"]).abs() * outside).sum() / outside.sum() / 3
    flipped = ((made["negative"].flip(3) - made["anchor"]).abs() * outside).sum() / outside.sum() / 3
    assert difference < 0.5 * flipped


def test_a_run_starts_from_given_weights_and_without_spd_stays_there(tmp_path: Path):
    torch.manual_seed(3)
    arch = "mobilenetv2_050"
    record = {"architecture": arch, "image_size": 64, "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    start = export_backbone(timm.create_model(arch, num_classes=0), tmp_path / "start", record)
    photos = write_photos(tmp_path / "photos", 12)
    still = pretrain(recipe(photos, tmp_path / "still", start, arch, spd=SpdConfig(weight=0)))
    scales = AdaptConfig(scales=(0.5, 1.0, 0.25))
    moved = pretrain(recipe(photos, tmp_path / "moved", start, arch, adapt=scales)) / "model.safetensors"
    given = load_file(start / "model.safetensors")
    assert all(torch.equal(tensor, given[name]) for name, tensor in load_file(still / "model.safetensors").items())
    adapted = load_file(moved)
    assert any(not torch.allclose(adapted[name], given[name], atol=1e-4) for name in given)
    norm = "blocks.1.0.bn3.weight"  # of random weights, one; the last stage is scaled by a quarter
    assert adapted[norm].mean().item() == pytest.approx(0.5 * given[norm].mean().item(), rel=0.05)


def test_a_run_that_was_stopped_is_resumed_to_the_bit(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 12)
    whole, stopped = (
        recipe(photos, tmp_path / name, tmp_path, model=ModelConfig(arch=ARCH)) for name in ("whole", "stopped")
    )
    pretrain(whole)
    for stop in (1, None):
        pretrain(dataclasses.replace(stopped, optim=dataclasses.replace(stopped.optim, max_steps=stop)))
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")
    assert [line["spd_accuracy"] for line in metrics(tmp_path / "stopped")][-1:] == [
        line["spd_accuracy"] for line in metrics(tmp_path / "whole")
    ][-1:]


def test_defaults_are_the_settings_of_the_released_weight():
    record = read_json(weights_file(find("mobilenetv2_100_spd")).with_name("training.json"))["config"]
    defaults = json.loads(json.dumps(to_json(Adapt(data=DataConfig(train="photos"), out=Path("run")))))
    defaults["adapt"]["scales"] = record["adapt"]["scales"]  # of MobileNetV2 and EfficientNet only
    for group in ("optim", "spd", "augment", "adapt"):
        assert defaults[group] == record[group]


def test_what_cannot_work_is_refused(tmp_path: Path):
    with pytest.raises(SpdError, match="intermediate feature maps"):
        AdaptMethod(nn.Flatten(), AdaptConfig(), 32)
    with pytest.raises(SpdError, match=r"spd\.weak-crop-area"):
        recipe(tmp_path, tmp_path, tmp_path, spd=SpdConfig(weight=1.0))
    with pytest.raises(SpdError, match=r"optim\.epochs 2 would have no effect beside --optim\.steps 3"):
        recipe(tmp_path, tmp_path, tmp_path, optim=OptimConfig(epochs=2, steps=3))
    with pytest.raises(SpdError, match=r"spd\.symmetric"):
        recipe(tmp_path, tmp_path, tmp_path, spd=SpdConfig(weight=1.0, **IN_PLACE, symmetric=True))
    for option in ({"detach_anchor": True}, {"batch_norm": "apart"}, {"layer": 2}):
        with pytest.raises(SpdError, match=next(iter(option)).replace("_", "-")):
            recipe(tmp_path, tmp_path, tmp_path, spd=SpdConfig(weight=1.0, **IN_PLACE, **option))


def test_distances_keep_full_precision_under_autocast():
    ours, batch = moved(method(), 1e-3), views()
    a, b = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4) * 1e-3
    half = a.bfloat16(), (a + b).bfloat16()
    expected = (half[0].double() - half[1].double()).square().sum(1)
    torch.testing.assert_close(distances(*half, torch.tensor(1.0)).double(), expected, rtol=1e-5, atol=1e-9)
    exact = half[0].double().var((0, 2, 3))
    torch.testing.assert_close(channel_variance(half[0]).double(), exact, rtol=1e-5, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(batch)
    assert {out[name].dtype for name in ("loss_base", "loss_spd")} == {torch.float32}
