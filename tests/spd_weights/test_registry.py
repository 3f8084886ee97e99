"""Processes of their own: timm's registry and the Hub client's endpoint are fixed once they are imported."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import spd_weights
from spd_weights.catalog import find
from spd_weights.registry import register
from spd_weights.release.contents import contents
from spd_weights.release.contents import row as make_row
from spd_weights.release.export import export_backbone
from spd_weights.release.publish import publish
from tests.conftest import RunPython
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone

_COMPARE = """
import sys, timm, torch
from safetensors.torch import load_file
def compare(name, path, **kwargs):
    file = load_file(path)
    model = timm.create_model(name, pretrained=True, **kwargs)
    state = model.state_dict()
    adapted = {key for key in state if key not in file or state[key].shape != file[key].shape}
    assert all(torch.equal(state[key], file[key]) for key in state if key not in adapted), name
    return model, adapted, len(state) - len(adapted)
"""


def test_plain_timm_loads_an_export_by_every_route(
    hub: HubServer, export: Path, repo: str, run_python: RunPython
) -> None:
    commit = publish(export, repo).commit
    code = f"""{_COMPARE}
weights = {str(export / "model.safetensors")!r}
features = []
routes = ["hf-hub:{repo}", "hf-hub:{repo}@{commit}"]
if tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 26):  # before, local-dir: unpickled safetensors
    routes.append("local-dir:{export}")
for route in routes:
    model, adapted, equal = compare(route, weights)
    assert (adapted, equal) == (set(), 90), (adapted, equal)
    assert timm.data.resolve_model_data_config(model)["mean"] == [0.4, 0.5, 0.6]
    assert tuple(timm.data.resolve_model_data_config(model)["input_size"]) == (3, 64, 64)
    model, adapted, _ = compare(route, weights, num_classes=2)
    assert adapted == {{"fc.weight", "fc.bias"}}, adapted
    model, adapted, _ = compare(route, weights, in_chans=1)
    assert adapted == {{"conv1.0.weight"}}, adapted
    maps, adapted, equal = compare(route, weights, features_only=True, out_indices=(1, 2, 3))
    assert (adapted, equal > 60) == (set(), True), (adapted, equal)
    features.append(maps.eval()(torch.ones(1, 3, 64, 64)))
assert all(torch.equal(a, b) for other in features for a, b in zip(features[0], other))
assert "spd_weights" not in sys.modules
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_released_rows_load_verified_through_create_model(
    hub: HubServer, training: dict[str, Any], tmp_path: Path, run_python: RunPython
) -> None:
    facts = {**training, "architecture": "resnet18"}
    export = export_backbone(random_backbone("resnet18"), tmp_path / "export", facts)
    sound = publish(export, "acme/sound").row
    other = export_backbone(random_backbone("resnet18", seed=1), tmp_path / "other", {**facts, "spd_weight": 0})
    damaged = publish(other, "acme/damaged").row
    assert sound is not None
    assert damaged is not None
    hub.flip_byte("acme/damaged", "model.safetensors")
    planned = replace(find("resnet50_spd"), counterpart=None)
    architectures = ("resnet34", "wide_resnet50_2", "mobilenetv2_100")
    others = [replace(planned, name=f"{a}_spd.simsiam_in1k", architecture=a) for a in architectures]
    rows = [asdict(row) for row in (damaged, sound, planned, *others)]
    catalog = tmp_path / "own.json"
    catalog.write_text(json.dumps({"schema": 1, "rows": rows}))
    code = f"""{_COMPARE}
import spd_weights
weights = {str(export / "model.safetensors")!r}
name = "resnet18_spd.simsiam_caltech101"
for spelt in (name, "resnet18_spd"):
    model, adapted, equal = compare(spelt, weights)
    assert (adapted, equal) == (set(), 120), (adapted, equal)
    assert timm.data.resolve_model_data_config(model)["mean"] == [0.4, 0.5, 0.6]
    assert model.pretrained_cfg["tag"] == "simsiam_caltech101"
assert compare(name, weights, num_classes=2)[1] == {{"fc.weight", "fc.bias"}}
assert compare(name, weights, in_chans=1)[1] == {{"conv1.weight"}}
maps, adapted, _ = compare(name, weights, features_only=True, out_indices=(1, 2, 3), pretrained_cfg=None)
assert adapted == set() and len(maps(torch.ones(1, 3, 64, 64))) == 3

released = [name, name + "_eta0", "resnet18_spd"]
assert set(timm.list_models("*_spd*", pretrained=True)) <= set(released)
assert set(timm.list_pretrained("*_spd*")) == set(released[:2]), timm.list_pretrained("*_spd*")
known = timm.list_models("*_spd")
assert known == ["mobilenetv2_100_spd", "resnet18_spd", "resnet34_spd", "resnet50_spd", "wide_resnet50_2_spd"], known

shapes = lambda model: {{key: value.shape for key, value in model.state_dict().items()}}
for own in known:
    with torch.device("meta"):
        headless = timm.create_model(own)
        cfg = headless.pretrained_cfg
        assert cfg["architecture"] == own and headless.num_classes == 0 and not cfg.get("url")
        assert shapes(headless) == shapes(timm.create_model(own.removesuffix("_spd"), num_classes=0))
        stages = timm.create_model(own, features_only=True).feature_info.module_name()
        assert stages == timm.create_model(own.removesuffix("_spd"), features_only=True).feature_info.module_name()

def refused(name, *parts, **kwargs):
    try:
        timm.create_model(name, pretrained=True, **kwargs)
    except spd_weights.SpdError as error:
        assert all(part in str(error) for part in parts), error
    else:
        raise AssertionError(name)

refused(name + "_eta0", "model.safetensors", "expected sha256 {damaged.sha256}, found ")
refused("resnet50_spd", "resnet50_spd.simsiam_in1k is planned")
refused("resnet18_spd.none", "no tag 'none'")

mine = timm.create_model("resnet18_spd", pretrained=True, num_classes=2, pretrained_cfg_overlay={{"file": weights}})
assert torch.equal(mine.conv1.weight, load_file(weights)["conv1.weight"])
"""
    done = run_python("-W", "ignore", "-c", code, SPD_WEIGHTS_CATALOG=str(catalog))
    assert done.returncode == 0, done.stderr


def test_planned_weights_say_what_to_do() -> None:
    with pytest.raises(spd_weights.SpdError) as error:
        timm.create_model("resnet50_spd.moco_in1k_eta0", pretrained=True, num_classes=5)
    for part in (
        "resnet50_spd.moco_in1k_eta0 is planned",
        "python -m train moco --model.arch resnet50 --spd.weight 0 ",
        "local-dir:<run>/export",
        "pretrained=False",
    ):
        assert part in str(error.value)
    assert timm.create_model("resnet50_spd.moco_in1k_eta0", num_classes=5).num_classes == 5
    assert {"resnet50_spd", "wide_resnet50_2_spd"} <= set(timm.list_models("*_spd*"))
    assert timm.list_models("*resnet50*_spd*", pretrained=True) == []
    assert timm.models.get_pretrained_cfg("resnet50_spd").hf_hub_id is None


def test_registering_again_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    before = timm.list_models(include_tags=True)
    register()
    assert timm.list_models(include_tags=True) == before
    assert list(recwarn) == []


def test_unreadable_catalog_does_not_break_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.json").write_text("{")
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "own.json"))
    with pytest.warns(UserWarning, match=r"no SPD weights are registered with timm: .*own\.json is not JSON"):
        register()


def test_architecture_that_this_timm_lacks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(find("resnet50_spd"), name="resnet9000_spd.x", architecture="resnet9000", counterpart=None)
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": [asdict(row)]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "own.json"))
    with pytest.warns(UserWarning, match="resnet9000_spd is not registered: this timm lacks resnet9000"):
        register()
    assert not timm.is_model("resnet9000_spd")


# One per family, small, and a vision transformer trained at another size than its stock weights.
_FAMILIES = {
    "test_resnet": 64, "mobilenetv2_035": 64, "mobilenetv3_small_050": 64, "efficientnet_lite0": 64,
    "test_convnext": 64, "test_vit": 96,
}  # fmt: skip


def test_any_architecture_can_be_a_row(training: dict[str, Any], tmp_path: Path, run_python: RunPython) -> None:
    rows = []
    for architecture, size in _FAMILIES.items():
        options = {"img_size": size} if timm.get_pretrained_cfg(architecture).fixed_input_size else {}
        torch.manual_seed(1)
        backbone = timm.create_model(architecture, num_classes=0, **options)
        facts = {**training, "architecture": architecture, "image_size": size, "licence": "mit"}
        export = export_backbone(backbone, tmp_path / architecture, facts)
        name = f"{architecture}_spd.simsiam_caltech101"
        row = make_row(contents(export), name, status="bundled", file=f"{architecture}/model.safetensors")
        rows.append(asdict(row))
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    code = f"""
import socket
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import timm, torch, spd_weights
from spd_weights.hub import pull
for architecture, size in {_FAMILIES!r}.items():
    name, picture = architecture + "_spd", torch.rand(1, 3, size, size)
    model, plain = (timm.create_model(each, pretrained=True).eval() for each in (
        name, f"local-dir:{tmp_path}/" + architecture))
    with torch.no_grad():
        assert torch.equal(model(picture), plain(picture)), name
        assert model.num_classes == 0
    untrained = timm.create_model(name)
    for data in (timm.data.resolve_model_data_config(each) for each in (model, untrained, plain)):
        assert (*data["input_size"], *data["mean"], data["crop_pct"]) == (3, size, size, 0.4, 0.5, 0.6, 1.0)
    for key in ("tag", "input_size", "license", "num_classes", "first_conv", "classifier", "fixed_input_size"):
        assert untrained.pretrained_cfg.get(key) == model.pretrained_cfg.get(key), (name, key)
    assert model.pretrained_cfg["tag"] == "simsiam_caltech101" and not model.pretrained_cfg.get("url")
    assert timm.create_model(name, pretrained=True, num_classes=5)(picture).shape == (1, 5)
    assert timm.create_model(name, pretrained=True, in_chans=1)(picture[:, :1]).shape == model(picture).shape
    stages = timm.create_model(name, pretrained=True, features_only=True).eval()
    with torch.no_grad():
        maps, expected = stages(picture), plain.forward_intermediates(
            picture, indices=list(stages.feature_info.out_indices), intermediates_only=True)
    assert len(maps) > 1 and all(torch.equal(a, b) for a, b in zip(maps, expected)), name
    assert pull(name).is_dir()
"""
    done = run_python("-W", "ignore", "-c", code, SPD_WEIGHTS_CATALOG=str(tmp_path / "own.json"))
    assert done.returncode == 0, done.stderr
