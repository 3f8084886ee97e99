import json
from dataclasses import asdict
from pathlib import Path

import pytest

from spd_weights.catalog import find, load_catalog
from spd_weights.cli import main
from spd_weights.doctor import _within, examine
from spd_weights.hub import pull
from spd_weights.release.publish import publish
from tests.hub_faults import answer
from tests.hub_server import HubServer


@pytest.mark.parametrize(
    ("version", "tested", "sound"),
    [
        ("2.4.0", "<3,>=1.0", True),
        ("3.0.0", "<3,>=1.0", False),
        ("3", "<3,>=1.0", False),
        ("0.36", "<3,>=1.0", False),
        ("1.0", "<3,>=1.0.0", True),
        ("1.0.20", "<2,>=1.0.20", True),
        ("1.0.9", "<2,>=1.0.20", False),
        ("2.11.0+cu129", "<3,>=2.11", True),
        ("2.10.1", "<3,>=2.11", False),
        ("5", "", True),
    ],
)
def test_range(version: str, tested: str, sound: bool) -> None:
    assert _within(version, tested) == sound


def test_sound_installation(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in (
        "timm: ",
        "torch: ",
        f"{hub.endpoint} answers",
        "token: of tester",
        "GB free",
        f"{len(load_catalog())} weights",
    ):
        assert part in text
    planned = [row for row in load_catalog().values() if row.status == "planned"]
    assert text.count("planned: not released yet") == len(planned)
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

    assert state() == (True, f"not here; spd-weights pull {row.name} fetches {row.bytes / 1e6:.0f} MB")
    weights = pull(find(row.name)) / "model.safetensors"
    assert state() == (True, f"here and sound: {weights.resolve()}") or state()[1] == f"here and sound: {weights}"
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
