import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from spd_weights.checks import EXPORT_FILES, check_export
from spd_weights.errors import SpdError
from spd_weights.release.export import export_backbone
from tests.spd_weights.conftest import random_backbone


def test_files_hold_the_backbone(export: Path, backbone: nn.Module) -> None:
    assert sorted(path.name for path in export.iterdir()) == sorted(EXPORT_FILES)
    state, saved = backbone.state_dict(), load_file(export / "model.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[key], state[key]) for key in state)
    with safe_open(export / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_config_is_its_own_and_not_the_stock_weights(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    digest = config["spd"].pop("sha256")
    assert [stage["stage"] for stage in config["spd"].pop("golden")] == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert len(digest) == 64
    assert config == {
        "architecture": "test_resnet",
        "num_classes": 0,
        "num_features": 96,
        "model_args": {"in_chans": 3},
        "pretrained_cfg": {
            "tag": "simsiam_caltech101",
            "license": None,
            "description": "test_resnet, SimSiam with SPD (η = 0.1), on caltech101",
            "paper_ids": "arXiv:2207.14315",
            "custom_load": False,
            "input_size": [3, 64, 64],
            "fixed_input_size": False,
            "test_input_size": None,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "conv1.0",
            "classifier": "fc",
        },
        "spd": {"schema": 1, "method": "simsiam", "spd_weight": 0.1, "data": "caltech101"},
    }


def test_wrappers_and_low_precision_are_undone(tmp_path: Path, backbone: nn.Module, training: dict[str, Any]) -> None:
    wrapped = nn.Module()
    wrapped.module = torch.compile(random_backbone().to(torch.bfloat16))
    saved = load_file(export_backbone(wrapped, tmp_path / "export", training) / "model.safetensors")
    expected = backbone.to(torch.bfloat16).state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], expected[key].to(saved[key].dtype)) for key in saved)
    assert {value.dtype for value in saved.values()} == {torch.float32, torch.int64}


def test_transformer_keeps_its_training_size(tmp_path: Path, training: dict[str, Any]) -> None:
    vit = timm.create_model("test_vit", num_classes=0, img_size=64)
    export = export_backbone(vit, tmp_path / "export", {**training, "architecture": "test_vit"})
    again = timm.create_model(f"local-dir:{export}", pretrained=True)
    assert again.pos_embed.shape == (1, 17, 64)
    assert torch.equal(again.pos_embed, vit.pos_embed)


def _drop_layer(model: nn.Module) -> None:
    model.layer2 = nn.Identity()


def _add_layer(model: nn.Module) -> None:
    model.projector = nn.Linear(2, 2)


def _keep_classifier(model: nn.Module) -> None:
    model.fc = nn.Linear(96, 10)


def _widen(model: nn.Module) -> None:
    model.bn1 = nn.BatchNorm2d(5)


def _diverge(model: nn.Module) -> None:
    model.bn1.weight.data[3] = float("nan")


@pytest.mark.parametrize("break_it", [_drop_layer, _add_layer, _keep_classifier, _widen, _diverge])
def test_unfit_backbone_is_refused_and_nothing_is_written(
    break_it: Any, tmp_path: Path, backbone: nn.Module, training: dict[str, Any]
) -> None:
    break_it(backbone)
    with pytest.raises(SpdError, match=str(tmp_path)):
        export_backbone(backbone, tmp_path / "export", training)
    assert list(tmp_path.iterdir()) == []


def test_record_without_the_needed_facts_is_refused(
    tmp_path: Path, backbone: nn.Module, training: dict[str, Any]
) -> None:
    del training["mean"], training["image_size"]
    with pytest.raises(SpdError, match="lacks image_size, mean"):
        export_backbone(backbone, tmp_path / "export", training)
    unknown = {**training, "architecture": "resnet9000", "image_size": 64, "mean": [0.5] * 3}
    with pytest.raises(SpdError, match="resnet9000"):
        export_backbone(backbone, tmp_path / "export", unknown)


def test_earlier_export_is_replaced_whole_or_kept_whole(
    export: Path, backbone: nn.Module, training: dict[str, Any]
) -> None:
    before = {path.name: path.read_bytes() for path in export.iterdir()}
    _diverge(backbone)
    with pytest.raises(SpdError, match=r"not finite in bn1\.weight"):
        export_backbone(backbone, export, training)
    assert {path.name: path.read_bytes() for path in export.iterdir()} == before
    export_backbone(random_backbone(seed=1), export, training)
    assert (export / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert [path.name for path in export.parent.iterdir()] == ["export"]


def test_foreign_files_are_not_deleted(tmp_path: Path, backbone: nn.Module, training: dict[str, Any]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SpdError, match=r"thesis\.tex"):
        export_backbone(backbone, tmp_path, training)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_nan_in_the_record_is_written_as_missing(tmp_path: Path, backbone: nn.Module, training: dict[str, Any]) -> None:
    training["final"]["spd_accuracy"] = float("nan")
    export = export_backbone(backbone, tmp_path / "export", training)
    assert json.loads((export / "training.json").read_text())["final"]["spd_accuracy"] is None
    assert "| spd_accuracy | not recorded |" in (export / "README.md").read_text()


def _edit_config(**changes: Any) -> Any:
    def edit(export: Path) -> None:
        path = export / "config.json"
        config = json.loads(path.read_text())
        for dotted, value in changes.items():
            *parents, last = dotted.split("__")
            inner = config
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        path.write_text(json.dumps(config))

    return edit


def _flip(export: Path) -> None:
    content = bytearray((export / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (export / "model.safetensors").write_bytes(content)


def _truncate(export: Path) -> None:
    content = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").write_bytes(content[:-100])


def _lose_tensor(export: Path) -> None:
    tensors = load_file(export / "model.safetensors")
    del tensors["bn1.weight"]
    save_file(tensors, export / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, r"model\.safetensors is not the file .* expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (_truncate, r"model\.safetensors is not a readable safetensors file"),
        (_lose_tensor, r"model\.safetensors does not fit .*bn1\.weight"),
        (lambda export: (export / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda export: (export / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda export: (export / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
        (lambda export: (export / "config.json").write_text("{}"), r"config\.json: names the architecture None"),
        (_edit_config(pretrained_cfg__spd="x"), r"config\.json: pretrained_cfg must not hold spd"),
        (_edit_config(pretrained_cfg__num_classes=1000), r"config\.json: num_classes must be 0"),
        (_edit_config(pretrained_cfg__mean=[0.5]), r"config\.json: mean, std"),
        (_edit_config(architecture="resnet50_spd9"), r"config\.json: names the architecture 'resnet50_spd9'"),
        (lambda export: (export / "training.json").write_text("{}"), r"training\.json names another"),
        (lambda export: (export / "training.json").write_text("[]"), r"training\.json is not a JSON object"),
        (lambda export: (export / "README.md").write_text("---\n- a: [\n---\n"), r"README\.md is not a model card"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_damaged_export_is_named(export: Path, damage: Any, message: str) -> None:
    check_export(export)
    damage(export)
    with pytest.raises(SpdError, match=message):
        check_export(export)
