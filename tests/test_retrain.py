"""examples/retrain.py: a released weight is trained again, from the same start, and differences are told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from examples import retrain
from spd_weights.catalog import load_catalog
from spd_weights.files import read_json, write_json
from spd_weights.release.bundle import bundle
from spd_weights.release.export import export_backbone

ROOT = Path(__file__).parents[1]
NAME = "test_resnet_spd.adapt_scenes"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training images, data to evaluate on, a start, and a clone with a bundled weight made from them."""
    root = tmp_path_factory.mktemp("retrain")
    record = {"architecture": "test_resnet", "image_size": 64, "in_chans": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    torch.manual_seed(0)
    export_backbone(timm.create_model("test_resnet", num_classes=0), root / "start", record)
    command("synthetic.scenes", "--to", root / "scenes", "--count", "8", "--size", "64")
    few = ("--train", "3", "--test-normal", "2", "--anomalies", "4", "--size", "64")
    command("synthetic.parts", "--to", root / "parts", *few)
    command("train", "adapt", "--data.train", root / "scenes", "--model.arch", "test_resnet", "--model.init",
            f"local-dir:{root / 'start'}", "--data.image-size", "64", "--data.workers", "0", "--optim.steps", "2",
            "--optim.batch-size", "2", "--out", root / "run")  # fmt: skip
    (root / "clone" / "package").mkdir(parents=True)
    (root / "clone" / "model_cards").mkdir()
    catalog = root / "clone" / "package" / "catalog.json"
    catalog.write_text('{"schema": 1, "rows": []}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_WEIGHTS_CATALOG", str(catalog))
        _, folder, _ = bundle(root / "run" / "export", licence="mit", data_licence="mit")
        command("eval", "--weights", f"local-dir:{folder}", "--data", root / "parts", "--category", "biscuit", "board",
                "--image-size", "64", "--out", root / "eval")  # fmt: skip
        bundle(root / "run" / "export", results=root / "eval" / "results.json", licence="mit", data_licence="mit")
    return root


@pytest.fixture
def clone(files: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder of the weight's card; its record is restored afterwards."""
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(files / "clone" / "package" / "catalog.json"))
    record = files / "clone" / "model_cards" / NAME / "training.json"
    before = record.read_text()
    yield record
    record.write_text(before)


def retrained(files: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = retrain.main(["--files", str(files), "--out", str(out)])
    return code, "".join(capfd.readouterr())


def test_same_record_gives_the_same_bytes(files: Path, clone: Path, tmp_path: Path, capfd) -> None:
    assert list(load_catalog()) == [NAME]
    code, said = retrained(files, tmp_path, capfd)
    assert code == 0
    assert f"{NAME}: bit-identical" in said


def test_another_seed_is_told_with_its_metrics(files: Path, clone: Path, tmp_path: Path, capfd) -> None:
    record = read_json(clone)
    record["config"]["seed"] = 5
    write_json(clone, record)
    code, said = retrained(files, tmp_path, capfd)
    assert code == 0
    assert f"{NAME}: not bit-identical; largest difference " in said
    assert "padim image_auroc: " in said
    assert " points on average over 2 categories, at most " in said


def test_what_cannot_be_repeated_is_refused(files: Path, clone: Path, tmp_path: Path, capfd) -> None:
    record = read_json(clone)
    del record["config"]["adapt"]["keep_weight"]
    write_json(clone, record)
    code, said = retrained(files, tmp_path / "a", capfd)
    assert code == 1
    assert "of another version, without --adapt.keep-weight" in said
    assert not (tmp_path / "a").exists()

    record["config"]["model"]["init"] = "elsewhere"
    write_json(clone, record)
    code, said = retrained(files, tmp_path / "b", capfd)
    assert code == 1
    assert "there is no folder elsewhere" in said

    record["config"]["model"]["init"] = "start"
    catalog = files / "clone" / "package" / "catalog.json"
    before = catalog.read_text()
    rows = json.loads(before)
    rows["rows"][0]["start"]["sha256"] = "0" * 64
    write_json(clone, record)
    catalog.write_text(json.dumps(rows))
    code, said = retrained(files, tmp_path / "c", capfd)
    catalog.write_text(before)
    assert code == 1
    assert "has another sha256 than the start of this weight" in said


def test_unknown_names_are_refused(files: Path, clone: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no released weights nothing"):
        retrain.released(["nothing"])


def command(module: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
