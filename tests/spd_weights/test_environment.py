import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest

from spd_weights import environment
from spd_weights.catalog import find, load_catalog
from spd_weights.cli import main
from spd_weights.environment import examine
from spd_weights.hub import pull
from spd_weights.release.publish import publish
from tests.hub.faults import answer
from tests.hub.server import HubServer


def test_versions_are_compared_with_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = 'accelerate>=1; extra == "train"'
    monkeypatch.setattr(metadata, "requires", lambda _: ["a<3,>=1.0", "b<3,>=2.11", "c>=1", "none<2", extra])
    installed = {"a": "3", "b": "2.11.0+cu129", "c": "1.0.dev1"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.what: finding for finding in environment._versions()}
    assert {name: finding.sound for name, finding in found.items()} == {
        "a": False,
        "b": True,
        "c": False,
        "none": False,
    }
    assert found["a"].says == "3, tested <3,>=1.0; run pip install 'a<3,>=1.0'"
    assert found["none"].says == "missing; run pip install 'none<2'"


def test_sound_installation(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in (
        "timm: ",
        "torch: ",
        f"{hub.endpoint} answers",
        "token: belongs to tester",
        "GB free",
        f"{len(load_catalog())} weights",
    ):
        assert part in text
    for row in load_catalog().values():
        assert (f"ok     {row.name}: sound: " in text) == (row.status == "bundled")
    assert "WRONG" not in text


def test_what_is_wrong_is_said_and_the_exit_code_is_1(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "none.json"))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "WRONG  token: token: the Hub does not accept the token; run hf auth login" in text
    assert "WRONG  catalog: " in text
    hub.fault = answer(502)
    assert main(["doctor"]) == 1
    assert "WRONG  endpoint: " in capsys.readouterr().out


def test_each_weights_local_state(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = publish(export, repo).row
    assert row is not None
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"schema": 1, "rows": [asdict(row)]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(own))

    def state() -> tuple[bool, str]:
        (found,) = (finding for finding in examine() if finding.what == row.name)
        return found.sound, found.says

    assert state() == (True, f"not downloaded; spd-weights pull {row.name} fetches {row.bytes / 1e6:.0f} MB")
    weights = pull(find(row.name)) / "model.safetensors"
    assert state() == (True, f"sound: {weights.resolve()}") or state()[1] == f"sound: {weights}"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    sound, says = state()
    assert not sound
    assert "is damaged" in says


def test_mirror_of_everything(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    row = publish(export, repo).row
    assert row is not None
    rows = [asdict(row), {**asdict(find("resnet50_spd")), "counterpart": None}]
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "own.json"))
    for _ in range(2):
        assert main(["pull", "--all", "--to", str(tmp_path / "mirror")]) == 0
        assert "1 of 2 weights" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "mirror").iterdir()] == [row.name]
    assert main(["verify", str(tmp_path / "mirror" / row.name)]) == 0
    assert main(["pull", "--all"]) == 2
    assert "--all needs --to DIR" in capsys.readouterr().err
