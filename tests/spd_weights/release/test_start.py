"""What is recorded about the weights that a run starts from."""

import hashlib
import json
from pathlib import Path

import timm

from spd_weights import golden
from spd_weights.catalog import find
from spd_weights.checks import WEIGHTS
from spd_weights.hub import pull
from spd_weights.release import cards
from spd_weights.release.start import starting_point
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone, serve


def _start(init: str, architecture: str = "test_resnet") -> dict[str, str]:
    return starting_point(init, timm.create_model(architecture, num_classes=0), 64)["start"]


def test_random_weights_have_no_start() -> None:
    assert starting_point("none", random_backbone(), 64) == {}


def test_a_weight_of_the_catalog() -> None:
    row = find("mobilenetv2_100_spd")
    start = _start("mobilenetv2_100_spd", "mobilenetv2_100")
    assert (start["weights"], start["licence"], start["sha256"]) == (row.name, row.licence, row.sha256)
    assert start["command"] == f"spd-weights pull {row.name}"


def test_a_weight_of_timm_is_named_with_its_tag() -> None:
    for init in ("timm", "resnet18", "resnet18.a1_in1k"):
        start = _start(init, "resnet18")
        assert start["weights"] == "resnet18.a1_in1k"
        assert start["source"] == "https://huggingface.co/timm/resnet18.a1_in1k"
        assert start["licence"] == "apache-2.0"
        assert "timm.create_model('resnet18.a1_in1k', pretrained=True)" in start["command"]


def test_a_repository_and_a_folder(hub: HubServer, export: Path, repo: str) -> None:
    digest = hashlib.sha256((export / WEIGHTS).read_bytes()).hexdigest()
    row = serve(hub, export, repo)
    pull(repo, revision=row.revision)
    start = _start(f"hf-hub:{repo}@{row.revision}")
    assert start["sha256"] == digest
    assert start["command"] == f"hf download {repo} --revision {row.revision}"
    assert _start(f"local-dir:{export}") == {"weights": "run", "sha256": digest}
    assert str(export) not in json.dumps(_start(str(export)))


def test_the_health_of_the_start_is_on_the_card_beside_that_of_the_result(export: Path) -> None:
    model = timm.create_model(f"local-dir:{export}", pretrained=True)
    facts = starting_point("timm", model, 64)
    config = json.loads((export / "config.json").read_text())
    assert facts["start_health"] == golden.health(model, config)
    training = json.loads((export / "training.json").read_text())
    text = cards.render({**training, "init": "timm", **facts})
    assert "| stage | RMS | cosine | RMS of the start | cosine of the start |" in text
    assert f"The starting weights, `{facts['start']['weights']}`" in text
