"""Every snippet of docs/loading.md in a process of its own: the features are those of the weights, to the bit."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spd_weights.release.export import export_backbone
from tests.conftest import RunPython
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone, serve

_LOADING = Path(__file__).parents[2] / "docs" / "loading.md"
_SNIPPETS = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", _LOADING.read_text(), flags=re.DOTALL | re.MULTILINE))

# What to ask of the snippet's object for the maps of layer1, layer2 and layer3 (or the last one alone).
_MAPS = {
    "timm, by name": "backbone.eval()(picture)",
    "timm, from the Hub": "backbone.eval()(picture)",
    "timm, from a folder": "backbone.eval()(picture)",
    "anomalib, PatchCore": "list(detector.model.feature_extractor.eval()(picture).values())",
    "anomalib, PaDiM": "list(detector.model.feature_extractor.eval()(picture).values())",
    "transformers, TimmWrapper": "[model.eval()(picture).last_hidden_state]",
    "transformers, TimmBackbone": "backbone.eval()(picture).feature_maps",
    "segmentation_models_pytorch, from the Hub": "unet.encoder.eval()(picture)[2:5]",
    "segmentation_models_pytorch, by name": "unet.encoder.eval()(picture)[2:5]",
    "torchvision": "list(create_feature_extractor(resnet.eval(), ['layer1', 'layer2', 'layer3'])(picture).values())",
}


def test_every_snippet_has_a_route() -> None:
    assert list(_SNIPPETS) == list(_MAPS)


@pytest.mark.slow
@pytest.mark.parametrize("route", _MAPS)
def test_route(route: str, hub: HubServer, training: dict[str, Any], tmp_path: Path, run_python: RunPython) -> None:
    library = route.partition(",")[0]
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'spd-weights[interop]'")
    backbone = random_backbone("resnet18").eval()
    export = export_backbone(backbone, tmp_path / "export", {**training, "architecture": "resnet18"})
    row = serve(hub, export, "acme/weights")
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": [asdict(row)]}))
    picture = torch.rand(2, 3, 64, 64)
    save_file({"picture": picture}, tmp_path / "picture.safetensors")
    names = {
        "owner/name": "acme/weights", "@commit": f"@{row.revision}", '"commit"': f'"{row.revision}"',
        "runs/mine/export": str(export), "resnet50": "resnet18", "mobilenetv2_100": "resnet18",
    }  # fmt: skip
    snippet = _SNIPPETS[route]
    for name, value in names.items():
        snippet = snippet.replace(name, value)
    code = f"""{snippet}
import sys, torch
from safetensors.torch import load_file, save_file
from torchvision.models.feature_extraction import create_feature_extractor
assert ("spd_weights" in sys.modules) == ("by name" in {route!r})
picture = load_file({str(tmp_path / "picture.safetensors")!r})["picture"]
with torch.no_grad():
    maps = {_MAPS[route]}
save_file({{str(i): each.contiguous() for i, each in enumerate(maps)}}, {str(tmp_path / "maps.safetensors")!r})
"""
    done = run_python("-W", "ignore", "-c", code, SPD_WEIGHTS_CATALOG=str(tmp_path / "own.json"))
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = backbone.forward_intermediates(picture, indices=(1, 2, 3, 4), intermediates_only=True)
    expected = expected[3:] if route == "transformers, TimmWrapper" else expected[:3]
    found = load_file(tmp_path / "maps.safetensors")
    assert len(found) == len(expected)
    for i, feature_map in enumerate(expected):
        assert torch.equal(found[str(i)], feature_map), (i, (found[str(i)] - feature_map).abs().max())
