import json
from pathlib import Path

import pytest

import spd_weights
from spd_weights.catalog import list_weights, load_catalog, load_results
from spd_weights.cli import main
from tests.conftest import RunPython
from tests.hub.server import HubServer


def test_list_shows_weights_and_with_all_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    rows = list_weights()
    assert [line.split()[:2] for line in listed[1:-1] if not line.startswith(" ")] == [[r.name, r.status] for r in rows]
    chosen = [entry for entry in load_results() if entry["metric"] in ("image_auroc", "pixel_aupr")]
    assert len([line for line in listed if " ± " in line]) == len([e for e in chosen if e["spread"] is not None]) > 0
    planned = len(load_catalog()) - len(rows)
    assert listed[-1] == f"{planned} more are planned: spd-weights list --all"
    assert main(["list", "--all"]) == 0
    everything = capsys.readouterr().out
    assert everything.count(" planned ") == planned
    assert "more are planned" not in everything


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "wide_resnet50_2_spd.supervised_in1k"]) == 0
    shown, _, train = capsys.readouterr().out.partition("train: ")
    assert json.loads(shown)["counterpart"] == "wide_resnet50_2_spd.supervised_in1k_eta0"
    assert train.startswith("python -m train supervised --model.arch wide_resnet50_2 --spd.weight 0.1")
    assert main(["info", "mobilenetv2_100_spd"]) == 0
    facts, _, measured = capsys.readouterr().out.partition("measured:\n")
    assert {"source", "conversion", "licence", "sha256", "command"} <= json.loads(facts)["start"].keys()
    assert "  visa 1cls padim image_auroc 0.771 ± 0.008\n" in measured


def test_version_and_both_spellings_of_licence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"spd-weights {spd_weights.__version__}\n"
    for option in ("--licence", "--license", "--data-licence", "--data-license"):
        assert main(["publish", "nowhere", "--repo", "a/b", option, "mit"]) == 2


def test_publish_pull_verify(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(export), "--repo", repo, "--dry-run"]) == 0
    assert "dry run" in capsys.readouterr().out
    assert repo not in hub.store.repos
    assert main(["publish", str(export), "--repo", repo]) == 0
    text = capsys.readouterr().out
    row = json.loads(text[text.index("{\n") :])
    assert f"{hub.endpoint}/{repo}/commit/{row['revision']}" in text
    assert main(["pull", repo, "--to", str(tmp_path / "there")]) == 0
    assert f"local-dir:{tmp_path / 'there'}" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "there")]) == 0
    assert row["sha256"] in capsys.readouterr().out


def test_card_is_rendered_from_its_sources(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (export / "README.md").read_text()
    (export / "README.md").write_text("lost")
    assert main(["card", str(export)]) == 0
    assert (export / "README.md").read_text() == before
    (export / "model.safetensors").unlink()
    assert main(["card", str(export)]) == 2
    assert "model.safetensors cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "resnet9"], "error: 'resnet9' is not in the catalog"),
        (
            ["pull", "resnet50_spd"],
            "error: resnet50_spd.simsiam_in1k is planned: its weights are not released yet. Today, use mobilenet",
        ),
        (["verify", "nowhere"], "error: 'nowhere' is not in the catalog"),
        (["publish", "nowhere", "--repo", "a/b"], "error: nowhere is not a folder"),
        (["card", "nowhere"], "error: 'nowhere' is not in the catalog"),
        (["card", "d/nowhere"], "error: d/nowhere is not a folder; give the export/ folder of a run, or a"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_offline_names_the_command_to_run_elsewhere(run_python: RunPython) -> None:
    done = run_python("-m", "spd_weights", "pull", "acme/x", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set; on a machine with a connection run hf download acme/x\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("list", "info", "pull", "verify", "publish", "card"):
        assert f"spd-weights {command}" in text or f"    {command} " in text
    assert "HF_ENDPOINT" in text
