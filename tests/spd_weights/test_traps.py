"""Traps of timm, huggingface_hub and anomalib that would give wrong weights without a word, shown to be harmless.

Others have their tests where the subject is: a classifier in the file or none, other numbers of classes, damaged
bytes, offline misses, one commit a release, not a number in metadata.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import HfApi

from spd_weights.catalog import find, load_catalog
from spd_weights.checks import WEIGHTS, check_export
from spd_weights.errors import SpdError
from spd_weights.hub import verify, weights_file
from spd_weights.registry import default_cfgs
from spd_weights.release.export import export_backbone
from spd_weights.release.publish import publish
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

_ENTRYPOINTS = sorted({row.entrypoint for row in load_catalog().values()})


@pytest.mark.parametrize("entrypoint", _ENTRYPOINTS)
def test_registering_leaves_the_stock_architecture_its_tags(entrypoint: str) -> None:
    stock = find(entrypoint).architecture
    assert entrypoint != stock
    assert timm.list_pretrained(f"{stock}.*")
    assert not [name for name in timm.list_pretrained(f"{stock}.*") if "spd" in name]


@pytest.mark.parametrize("entrypoint", _ENTRYPOINTS)
def test_entrypoint_does_not_resolve_the_stock_weights(entrypoint: str) -> None:
    for tag, cfg in default_cfgs[entrypoint].cfgs.items():
        assert (cfg.url, cfg.origin_url, cfg.test_input_size, cfg.num_classes) == (None, None, None, 0)
        row = find(f"{entrypoint}.{tag}")
        pinned = f"{row.repo}@{row.revision}" if row.status == "released" else None
        assert cfg.hf_hub_id == pinned  # never the literal "timm/", which timm completes by itself
    assert timm.create_model(entrypoint).pretrained_cfg["architecture"] == entrypoint


def test_first_tag_in_the_file_is_not_the_default_for_that(hub: HubServer) -> None:
    for entrypoint in _ENTRYPOINTS:
        assert default_cfgs[entrypoint].tags[0] == find(entrypoint).tag


def test_no_row_is_taken_for_a_vision_transformer_by_anomalib() -> None:
    for row in load_catalog().values():
        assert ("vit" in f"{row.name} {row.repo}".lower()) == ("vit" in row.architecture)


def test_publishing_under_a_name_with_vit_warns(hub: HubServer, export: Path) -> None:
    with pytest.warns(UserWarning, match="anomalib will treat invitro/weights as a vision transformer"):
        publish(export, "invitro/weights", dry_run=True)


def test_a_pinned_commit_in_the_cache_asks_nobody(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)
    weights_file(row, tmp_path)
    hub.requests.clear()
    weights_file(row, tmp_path)
    assert hub.requests == []


def test_nothing_that_unpickles_is_published(hub: HubServer, export: Path, repo: str) -> None:
    publish(export, repo)
    files = HfApi().list_repo_files(repo)
    assert [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))] == []
    assert WEIGHTS in files


def test_published_config_names_an_architecture_that_everybody_has(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert config["pretrained_cfg"].keys() <= asdict(timm.get_pretrained_cfg("resnet50")).keys()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_input_channels_keep_their_first_convolution(
    channels: int, tmp_path: Path, training: dict[str, Any]
) -> None:
    """timm 1.0.26 adapts a named first layer from 3 channels, whatever it has, and leaves it random if that fails."""
    model = timm.create_model("test_resnet", num_classes=0, in_chans=channels)
    facts = {"in_chans": channels, "mean": [0.5] * channels, "std": [0.2] * channels}
    folder = export_backbone(model, tmp_path / "export", training | facts)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert again.state_dict()["conv1.0.weight"].equal(model.state_dict()["conv1.0.weight"])
    config = json.loads((folder / "config.json").read_text())
    assert (config["pretrained_cfg"]["first_conv"] is None) == (channels > 1)
    if channels > 1:
        config["pretrained_cfg"]["first_conv"] = "conv1.0"
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SpdError, match="first_conv must be null"):
            check_export(folder)


def test_any_folder_name_is_a_name(export: Path, tmp_path: Path) -> None:
    """timm 1.0.26 reads `local-dir:` names as addresses, and cuts them at # and ?."""
    folder = tmp_path / "run #1? é %20 @main" / "export"
    shutil.copytree(export, folder)
    assert "features as exported" in verify(str(folder))
