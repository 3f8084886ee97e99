import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spd_weights.catalog import load_catalog, load_results
from spd_weights.checks import EXPORT_FILES
from spd_weights.cli import main
from spd_weights.errors import SpdError
from spd_weights.files import sha256
from spd_weights.release import bundle as bundling
from spd_weights.release.bundle import bundle
from spd_weights.release.export import export_backbone
from tests.conftest import RunPython
from tests.spd_weights.conftest import PNG, cards_that_differ, random_backbone

_NAME = "test_resnet_spd.simsiam_caltech101"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with an empty catalog, as far as bundling is concerned."""
    (tmp_path / "clone" / "package").mkdir(parents=True)
    (tmp_path / "clone" / "model_cards").mkdir()
    catalog = tmp_path / "clone" / "package" / "catalog.json"
    catalog.write_text('{"schema": 1, "rows": []}')
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(catalog))
    return tmp_path / "clone"


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundling_writes_the_halves_the_row_and_the_card(export: Path, clone: Path) -> None:
    row, folder, moved = bundle(export, licence="apache-2.0", data_licence="cc-by-4.0")
    assert folder == clone / "package" / "bundled" / _NAME
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXPORT_FILES)
    exact, halves = load_file(export / "model.safetensors"), load_file(folder / "model.safetensors")
    for key, value in exact.items():
        wide = value.ndim < 2 or not value.is_floating_point()
        assert torch.equal(halves[key], value if wide else value.half())
    assert 0 < moved < 1e-3
    assert load_catalog() == {_NAME: row}
    assert (row.status, row.repo, row.file) == ("bundled", None, f"bundled/{_NAME}/model.safetensors")
    assert (row.sha256, row.bytes) == (
        sha256(folder / "model.safetensors"),
        (folder / "model.safetensors").stat().st_size,
    )
    assert row.licence == "apache-2.0"
    card = (clone / "model_cards" / _NAME / "README.md").read_text()
    assert card == (folder / "README.md").read_text()
    for part in (
        f'timm.create_model("{_NAME}", pretrained=True)',
        "import spd_weights",
        "Licence of the data: cc-by-4.0",
    ):
        assert part in card
    assert "hf-hub:" not in card
    before = _files(clone)
    assert bundle(export, licence="apache-2.0", data_licence="cc-by-4.0")[0] == row
    assert _files(clone) == before


def test_only_what_was_measured_with_the_bundled_file_is_its_result(
    export: Path, clone: Path, tmp_path: Path, training: dict[str, Any]
) -> None:
    def measured(weights: str, digest: str | None, value: float) -> list[dict[str, Any]]:
        row = {"weights": weights, "weights_sha256": digest, "dataset": "parts", "protocol": "1cls", "seed": 0}
        return [
            {**row, "category": category, "method": "padim", "metric": "image_auroc", "value": value}
            for category in ("nut", "bolt")
        ]

    without = export_backbone(random_backbone(seed=1), tmp_path / "without", {**training, "spd_weight": 0})
    counterpart = bundle(without)[0]
    (export / "results.json").write_text(json.dumps({"rows": measured("x", sha256(export / "model.safetensors"), 0.9)}))
    row = bundle(export)[0]
    assert (load_results(_NAME), row.counterpart) == ([], f"{_NAME}_eta0")
    assert "Not measured." in (clone / "model_cards" / _NAME / "README.md").read_text()
    with pytest.raises(SpdError, match=r"no complete result of sha256 .* python -m eval --weights test_resnet_spd"):
        bundle(export, results=export / "results.json")

    rows = [
        *measured(_NAME, row.sha256, 0.75),
        *measured(f"{_NAME}_eta0", counterpart.sha256, 0.5),
        *measured("local-dir:/home/somebody/start", None, 0.25),
    ]
    (tmp_path / "results.json").write_text(json.dumps({"config": {"data": "/home/somebody/parts"}, "rows": rows}))
    row = bundle(export, results=tmp_path / "results.json")[0]
    assert [(entry["value"], entry["categories"]) for entry in load_results(_NAME)] == [(0.75, 2)]
    card = (clone / "model_cards" / _NAME / "README.md").read_text()
    assert f"| metric | these weights | {_NAME}_eta0 | start | categories | seeds |" in card
    assert "| parts | 1cls | padim | image_auroc | 0.7500 | 0.5000 | 0.2500 | 2 | 1 |" in card
    assert not [path for path, content in _files(clone).items() if b"somebody" in content]
    assert main(["verify", _NAME]) == main(["info", _NAME]) == main(["list"]) == 0


def test_cards_in_a_clone_are_what_their_sources_render(export: Path, clone: Path) -> None:
    (export / "preview.png").write_bytes(PNG)
    bundle(export)
    assert (clone / "model_cards" / _NAME / "preview.png").read_bytes() == PNG
    assert "](preview.png)" in (clone / "model_cards" / _NAME / "README.md").read_text()
    assert cards_that_differ() == []
    before = _files(clone)
    for path in (clone / "model_cards" / _NAME / "README.md", clone / "package" / "bundled" / _NAME / "README.md"):
        path.write_text(path.read_text().replace("0.75", "0.85"))
        assert cards_that_differ() == [str(path)]
        assert main(["card", _NAME]) == 0
        assert _files(clone) == before
    shutil.rmtree(clone / "model_cards" / _NAME)
    with pytest.raises(SpdError, match="has no card sources in"):
        cards_that_differ()


def test_what_cannot_be_bundled(export: Path, clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = _files(clone)
    for name in ("resnet18_spd.simsiam_steel", "test_resnet_spd.../x", "test_resnet_spd", f"{_NAME}.", "a" * 10_000):
        with pytest.raises(SpdError, match="is not a possible name; give --name test_resnet_spd"):
            bundle(export, name)
    with pytest.raises(SpdError, match="_eta0 if and only if spd_weight is 0"):
        bundle(export, f"{_NAME}_eta0")
    with pytest.raises(SpdError, match="is not a file"):
        bundle(export, results=tmp_path / "none.json")
    with monkeypatch.context() as patch:
        patch.setattr(bundling, "LIMIT", 1000)
        with pytest.raises(SpdError, match="the limit for bundled weights is 0 MB; publish it"):
            bundle(export)
    shutil.rmtree(clone / "model_cards")
    with pytest.raises(SpdError, match="is not in a clone"):
        bundle(export)
    assert _files(clone) == before


def test_bundled_weights_load_as_timm_models_without_network(
    clone: Path, tmp_path: Path, training: dict[str, Any], run_python: RunPython
) -> None:
    facts = {**training, "architecture": "mobilenetv2_100", "method": "adapt"}
    export = export_backbone(random_backbone("mobilenetv2_100"), tmp_path / "export", facts)
    name = "mobilenetv2_100_spd.adapt_steel"
    assert main(["bundle", str(export), "--name", name]) == 0
    folder = clone / "package" / "bundled" / name
    assert (folder / "model.safetensors").stat().st_size < 5e6
    code = f"""
import socket
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import timm, torch, spd_weights
from pathlib import Path
from safetensors.torch import load_file
from eval.backbone.weights import load_backbone
from spd_weights.cli import main
from spd_weights.files import sha256
name, file = {name!r}, load_file({str(folder / "model.safetensors")!r})
assert load_backbone(name, 64)[1] == sha256(Path({str(folder / "model.safetensors")!r}))
assert file["conv_stem.weight"].dtype == torch.float16 and file["bn1.running_var"].dtype == torch.float32

def load(name, *adapted, **kwargs):
    model = timm.create_model(name, pretrained=True, **kwargs)
    for key, value in model.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64)
        assert key in adapted or torch.equal(value, file[key].to(value.dtype)), key
    return model.eval()

picture = torch.rand(1, 3, 64, 64)
model = load(name)
features = model(picture)
for spelt in ("mobilenetv2_100_spd", "local-dir:{folder}"):
    assert torch.equal(load(spelt)(picture), features)
maps = load(name, features_only=True, out_indices=(1, 2, 3))(picture)
expected = model.forward_intermediates(picture, indices=(1, 2, 3), intermediates_only=True)
assert all(torch.equal(a, b) for a, b in zip(maps, expected))
assert load(name, "classifier.weight", "classifier.bias", num_classes=5)(picture).shape == (1, 5)
assert load(name, "conv_stem.weight", in_chans=1)(picture[:, :1]).shape == features.shape
assert timm.data.resolve_model_data_config(model)["mean"] == [0.4, 0.5, 0.6]
assert timm.list_pretrained("*_spd*") == [name]
for command in (["list"], ["info", name], ["verify", name], ["pull", name, "--to", {str(tmp_path / "copy")!r}]):
    assert main(command) == 0
content = bytearray(open({str(folder / "model.safetensors")!r}, "rb").read())
content[-1] ^= 1
open({str(folder / "model.safetensors")!r}, "wb").write(content)
try:
    timm.create_model(name, pretrained=True)
except spd_weights.SpdError as error:
    assert "is damaged: expected sha256" in str(error) and "reinstall spd-weights" in str(error)
else:
    raise AssertionError("damage was not noticed")
"""
    done = run_python("-W", "error::UserWarning", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "local-dir" not in done.stderr
    for part in (f"{name}  bundled", f'"file": "bundled/{name}/model.safetensors"', "sound, features as exported"):
        assert part in done.stdout


def test_a_weight_replaces_another(
    export: Path, clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(export, licence="apache-2.0", data_licence="cc-by-4.0")
    only_new = ["bundle", str(export), "--name", "test_resnet_spd.simsiam_steel", "--replaces"]
    licences = ["--licence", "apache-2.0", "--data-licence", "cc-by-4.0"]
    before = _files(clone)
    assert main([*only_new, "test_resnet_spd.nothing", *licences]) == 2
    assert "is not a bundled weight" in capsys.readouterr().err
    assert _files(clone) == before
    assert main([*only_new, _NAME, *licences]) == 0
    assert list(load_catalog()) == ["test_resnet_spd.simsiam_steel"]
    for folder in ("package/bundled", "model_cards"):
        assert [path.name for path in (clone / folder).iterdir()] == ["test_resnet_spd.simsiam_steel"]
    assert cards_that_differ() == []
    assert main([*only_new, "test_resnet_spd.simsiam_steel", *licences]) == 0  # a weight may replace itself
    assert list(load_catalog()) == ["test_resnet_spd.simsiam_steel"]
