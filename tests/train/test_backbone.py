"""Every method on every kind of backbone, and what a backbone or a batch cannot do."""

import dataclasses
from pathlib import Path

import pytest
import torch

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.backbone import make_backbone
from train.config import Config, ModelConfig, OptimConfig, SpdConfig
from train.loop import pretrain
from train.methods import build_method
from train.recipes import RECIPES, MoCoConfig
from train.views.perturb import perturb
from train.views.views import ViewMaker, WeakDraws

DEFAULT = SpdConfig()
METHODS = ("simsiam", "moco", "simclr", "supervised")


def recipe(name: str, arch: str, spd: SpdConfig = DEFAULT) -> Config:
    base = small_config(Path("photos"), Path("out"))
    kept = {"data": base.data, "out": base.out, "spd": spd, "model": ModelConfig(arch=arch)}
    extra = {"moco": {"moco": MoCoConfig(queue_size=8)}, "simsiam": {"simsiam": base.simsiam}}.get(name, {})
    return RECIPES[name](**kept, **extra, optim=OptimConfig(batch_size=4))


def losses(config: Config) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    method = build_method(config, make_backbone(config), classes=3).train()
    names = ("anchor", "second", "positive", "negative")
    views = {name: torch.randn(4, 3, 32, 32) for name in names} | {"labels": torch.tensor([0, 1, 2, 1])}
    out = method(views)
    (out["loss_base"] + config.spd.weight * out["loss_spd"]).backward()
    gradients = [p.grad for p in method.backbone.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    return out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "lcnet_035"])
def test_any_backbone_serves_any_method(arch: str, method: str):
    out = losses(recipe(method, arch))
    assert all(torch.isfinite(value).all() for value in out.values())


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "test_vit"])
def test_the_binary_classifier_can_read_an_earlier_stage(arch: str):
    config = recipe("supervised", arch, SpdConfig(layer=1))
    backbone = make_backbone(config)
    method = build_method(config, backbone, classes=3)
    assert method.spd.classifier.in_features == backbone.feature_info[1]["num_chs"]
    images = torch.randn(2, 3, 32, 32)
    maps = backbone.eval().forward_intermediates(images, intermediates_only=True)[1]
    torch.testing.assert_close(method.spd._read(backbone, images), maps.mean((2, 3)))
    losses(config)


@pytest.mark.parametrize(
    ("spd", "method", "says"),
    [
        (SpdConfig(layer=9), "supervised", "stages of this architecture are 0 to"),
        (SpdConfig(layer=0), "simsiam", "cross_entropy"),
    ],
)
def test_a_stage_that_cannot_be_read_is_refused(spd: SpdConfig, method: str, says: str):
    with pytest.raises(SpdError, match=f"--spd.layer.*{says}"):
        losses(recipe(method, "test_resnet", spd))


def test_a_batch_of_one_is_refused_where_there_is_batch_norm(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 8)
    config = small_config(photos, tmp_path / "run", optim=OptimConfig(epochs=1, batch_size=4, accumulate=4))
    with pytest.raises(SpdError, match=r"batch norm needs at least 2 images"):
        pretrain(config)


def test_checkpointing_gives_the_same_losses():
    config = recipe("simsiam", "test_resnet")
    again = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpointing=True))
    torch.testing.assert_close(losses(config), losses(again))


def test_an_architecture_that_cannot_recompute_says_so():
    config = recipe("simsiam", "dla46_c")
    with pytest.raises(SpdError, match=r"--model\.checkpointing: dla46_c"):
        make_backbone(dataclasses.replace(config, model=dataclasses.replace(config.model, checkpointing=True)))


@pytest.mark.parametrize("size", [32, 1024])
def test_views_of_any_size(size: int):
    config = recipe("simsiam", "test_resnet")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size))
    maker = ViewMaker(config, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
    anchors = torch.rand(2, 3, size, size)
    u = torch.rand(2, 20, dtype=torch.double).numpy()
    positives, unperturbed = (
        maker.weak(anchors, WeakDraws.from_uniforms(columns)) for columns in (u[:, :13], u[:, 3:16])
    )
    negatives, alpha = perturb(unperturbed, u, config.spd)
    assert positives.shape == negatives.shape == unperturbed.shape == anchors.shape
    changed = (negatives - unperturbed).abs().amax(1, keepdim=True) > 0
    assert changed.any()
    assert not (changed & (alpha == 0)).any()


def test_starting_weights_of_another_architecture_are_refused_in_a_sentence(finished: Path):
    start = f"local-dir:{finished / 'export'}"
    model = ModelConfig(arch="test_resnet", init=start)
    assert make_backbone(small_config(Path("photos"), Path("out"), model=model)) is not None
    with pytest.raises(SpdError) as refused:
        make_backbone(small_config(Path("photos"), Path("out"), model=ModelConfig(arch="test_vit", init=start)))
    said = str(refused.value)
    assert said.startswith(
        f"--model.init {start} holds weights of test_resnet, which do not fit --model.arch test_vit: "
    )
    assert said.endswith("set --model.arch to the architecture of the weights")
    assert len(said) < len(start) + 200
