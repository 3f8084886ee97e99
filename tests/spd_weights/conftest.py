"""A small backbone with its training record, and a Hub to put it on."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from spd_weights import transport
from spd_weights.catalog import Row, load_catalog
from spd_weights.checks import CHART, WEIGHTS
from spd_weights.release import contents as release
from spd_weights.release.clone import card_folder, card_paths, render_card, render_chart
from spd_weights.release.export import export_backbone
from tests.hub.server import HubServer

PNG = b"\x89PNG\r\n\x1a\n, and no picture"


@pytest.fixture
def training() -> dict[str, Any]:
    """A complete training record, as a run writes it."""
    return {
        "schema": 1,
        "architecture": "test_resnet",
        "method": "simsiam",
        "spd_weight": 0.1,
        "init": "none",
        "image_size": 64,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "in_chans": 3,
        "data": {"name": "caltech101", "images": 7494, "licence": "CC BY 4.0"},
        "config": {"spd": {"weight": 0.1}},
        "seed": 0,
        "steps": 500,
        "epochs": 4.2,
        "images_seen": 64000,
        "global_batch_size": 128,
        "seconds": 321.0,
        "processes": 1,
        "environment": {"cpu": "a CPU", "gpus": [], "packages": {"torch": "2.14.1"}},
        "final": {"loss": -0.5, "spd_accuracy": 0.75},
        "command": "python -m train simsiam --seed 0",
        "created": "2026-11-23T22:40:00+00:00",
    }


def random_backbone(architecture: str = "test_resnet", seed: int = 0) -> nn.Module:
    """A headless timm model in which every tensor, running statistics too, differs from its initial value."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(architecture, num_classes=0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            # Convolutions about zero, so that features stay finite through many layers.
            value.copy_((torch.rand_like(value) - 0.5) / 8 if value.ndim == 4 else torch.rand_like(value) + 0.5)
        else:
            value.fill_(7)
    return model


@pytest.fixture
def backbone() -> nn.Module:
    return random_backbone()


@pytest.fixture
def export(tmp_path: Path, backbone: nn.Module, training: dict[str, Any]) -> Path:
    """A sound export."""
    return export_backbone(backbone, tmp_path / "run" / "export", training)


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """A repository name no other test uses."""
    return f"acme/{request.node.originalname.removeprefix('test_')[:60]}-{os.urandom(3).hex()}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts: ours if the Hub names no time, and the Hub client's."""
    monkeypatch.setattr(transport, "WAITS", (0.01, 0.02, 0.02))
    quick = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
    monkeypatch.setattr("huggingface_hub.utils._http.time", quick)
    monkeypatch.setattr("huggingface_hub.file_download.time", quick)


def serve(hub: HubServer, export: Path, repo: str) -> Row:
    """Put an export into the Hub's store, as `publish` would; returns its row."""
    files = release.contents(export, repo=repo)
    hub.store.create(repo, private=False)
    entries = {
        name: {
            **hub.store.add_blob(content if isinstance(content, bytes) else content.read_bytes()),
            "lfs": name == WEIGHTS,
        }
        for name, content in files.items()
    }
    commit = hub.store.commit(repo, "main", "weights", entries, [])
    return release.row(files, status="released", repo=repo, revision=commit, file=WEIGHTS)


def cards_that_differ() -> list[str]:
    """The committed cards and charts, of the catalog in use, that differ from what their sources render."""
    return [
        str(path)
        for row in load_catalog().values()
        if row.status != "planned"
        for path in card_paths(row)
        if render_card(row) != path.read_text(encoding="utf-8")
    ] + [
        str(path)
        for row in load_catalog().values()
        if (folder := card_folder(row.name)) and folder.is_dir()
        for path in [folder / CHART]
        if render_chart(row) != (path.read_text(encoding="utf-8") if path.is_file() else None)
    ]
