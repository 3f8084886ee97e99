"""Finished cells are kept; whatever changes the numbers is measured again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.detectors.methods import Settings
from eval.detectors.one_class import OneClassPredictor
from eval.predictions import Run
from eval.results import read_results
from eval.run import evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import RANDOM, SMALL, mvtec_category, photo, request, rows, save, tiny_export


@pytest.fixture
def measured(monkeypatch):
    """Which (category, weights) are really measured."""
    calls = []
    original = OneClassPredictor.predict

    def spy(self, category, *rest):
        calls.append((category.name, self.weights))
        return original(self, category, *rest)

    monkeypatch.setattr(OneClassPredictor, "predict", spy)
    return calls


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile")


def test_finished_cells_are_kept_and_new_ones_added(tmp_path, measured):
    data, out = tmp_path / "set", tmp_path / "out"
    mvtec_category(data / "tile")
    evaluate(request(data, out))
    first = rows(out)
    mvtec_category(data / "screw")
    evaluate(request(data, out, weights=[RANDOM, "random:test_vit"]))
    assert measured == [("tile", RANDOM), ("screw", RANDOM), ("screw", "random:test_vit"), ("tile", "random:test_vit")]
    assert rows(out)[: len(first)] == first
    measured.clear()
    evaluate(request(data, out, weights=[RANDOM, "random:test_vit"]))
    assert measured == []


def test_interruption_loses_one_cell_at_most(tmp_path, measured):
    data, out = tmp_path / "set", tmp_path / "out"
    mvtec_category(data / "a")
    broken = mvtec_category(data / "b") / "test" / "spot" / "003.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:900])
    with pytest.raises(SpdError, match=r"003\.png"):
        evaluate(request(data, out))
    assert {row["category"] for row in rows(out)} == {"a"}
    broken.write_bytes(content)
    measured.clear()
    evaluate(request(data, out))
    assert measured == [("b", RANDOM)]
    assert not [path for path in out.rglob(".*")]


def test_changed_weights_or_data_are_measured_again(tile, tmp_path, measured):
    out, run = tmp_path / "out", tmp_path / "run"
    tiny_export(run / "export", seed=0)
    evaluate(request(tile, out, weights=[str(run)]))
    before = rows(out)
    measured.clear()
    shutil.rmtree(run)
    tiny_export(run / "export", seed=1)
    evaluate(request(tile, out, weights=[str(run)]))
    (tile / "test" / "good" / "000.png").unlink()
    evaluate(request(tile, out, weights=[str(run)]))
    assert len(measured) == 2
    after = rows(out)
    assert len(after) == len(before)
    assert {row["n_test_normal"] for row in after} == {3}
    assert not {row["weights_sha256"] for row in after} & {row["weights_sha256"] for row in before}


def test_other_settings_need_another_folder(tile, tmp_path):
    evaluate(request(tile, tmp_path / "out"))
    before = rows(tmp_path / "out")
    with pytest.raises(SpdError, match="image_size = 64, not 32"):
        evaluate(request(tile, tmp_path / "out", settings=Settings(image_size=32, padim_dims=8)))
    assert rows(tmp_path / "out") == before


def plain_folder(run: Path) -> Path:
    """A timm folder without this package's record, so that nothing else notices a change."""
    (run / "export" / "training.json").unlink()
    return run / "export"


def test_changed_preprocessing_is_measured_again(tile, tmp_path, measured):
    tiny_export(tmp_path / "run" / "export")
    weights = plain_folder(tmp_path / "run")
    evaluate(request(tile, tmp_path / "out", weights=[str(weights)]))
    before = rows(tmp_path / "out")
    config = json.loads((weights / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.9]
    (weights / "config.json").write_text(json.dumps(config))
    evaluate(request(tile, tmp_path / "out", weights=[str(weights)]))
    assert len(measured) == 2
    evaluate(request(tile, tmp_path / "fresh", weights=[str(weights)]))
    assert results_of(rows(tmp_path / "out")) == results_of(rows(tmp_path / "fresh")) != results_of(before)


def results_of(found):
    return [(row["metric"], row["value"]) for row in found]


def test_images_of_the_same_size_with_other_contents_are_measured_again(tile, tmp_path, measured):
    """Bitmaps of one shape have one file size."""
    for path in sorted((tile / "test" / "spot").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    evaluate(request(tile, tmp_path / "out"))
    first, second = sorted((tile / "test" / "spot").iterdir())[:2]
    assert first.stat().st_size == second.stat().st_size
    save(photo(np.random.default_rng(5)), second)
    evaluate(request(tile, tmp_path / "out"))
    assert len(measured) == 2


def test_rows_keep_the_environment_they_were_measured_in(tile, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate(request(tile, out))
    monkeypatch.setattr("eval.cell.environment", lambda: {"cpu": "another machine"})
    mvtec_category(tile.parent / "screw")
    evaluate(request(tile.parent, out))
    content = read_results(out)
    where = {row["category"]: content["environments"][row["environment"]]["cpu"] for row in content["rows"]}
    assert where["screw"] == "another machine" != where["tile"]


@pytest.mark.parametrize(
    ("method", "unused", "used"),
    [("padim", {"coreset_ratio": 0.5, "patchcore_reweight": True}, {"padim_dims": 9}),
     ("patchcore", {"padim_dims": 9, "padim_covariance": "diagonal"}, {"coreset_ratio": 0.5}),
     ("knn", {"padim_dims": 9, "coreset_ratio": 0.5}, {"image_size": 32})],
)  # fmt: skip
def test_only_settings_that_the_method_uses_count(tile, tmp_path, measured, method, unused, used):
    out = tmp_path / "out"
    evaluate(request(tile, out, methods=[method]))
    evaluate(request(tile, out, methods=[method], settings=replace(SMALL, **unused)))
    assert len(measured) == 1
    with pytest.raises(SpdError, match=f"holds results with {next(iter(used))}"):
        evaluate(request(tile, out, methods=[method], settings=replace(SMALL, **used)))
    (out / "results.json").unlink()  # the cells alone do not refuse other settings, they are measured again
    evaluate(request(tile, out, methods=[method], settings=replace(SMALL, **used)))
    assert len(measured) == 2


def test_config_keeps_the_settings_of_the_rows_it_has(tile, tmp_path):
    out = tmp_path / "out"
    evaluate(request(tile, out))
    evaluate(request(tile, out, methods=["knn"], settings=replace(SMALL, padim_dims=9)))
    assert read_results(out)["config"]["padim_dims"] == 8
    evaluate(request(tile, out, methods=["patchcore"], settings=replace(SMALL, coreset_ratio=0.5)))
    assert read_results(out)["config"]["coreset_ratio"] == 0.5
    evaluate(request(tile, out, methods=["padim", "patchcore"], settings=replace(SMALL, coreset_ratio=0.5)))


def test_another_version_of_the_code_measures_again(tile, tmp_path, measured, monkeypatch):
    evaluate(request(tile, tmp_path / "out"))
    monkeypatch.setattr("eval.cell.NUMBERS_VERSION", "another")
    evaluate(request(tile, tmp_path / "out"))
    assert len(measured) == 2


def test_identity_names_the_layers_of_the_method_and_the_device():
    predictor = OneClassPredictor(RANDOM, ["padim", "knn"], SMALL)
    padim, knn = (predictor.identity(Run("1cls", method, 0)) for method in ("padim", "knn"))
    assert padim["device"] in ("cpu", "cuda")
    assert padim["backbone"] == knn["backbone"]
    assert (padim["layers"], knn["layers"]) == ([1, 2, 3], [4])
    assert padim == OneClassPredictor(RANDOM, ["padim"], SMALL).identity(Run("1cls", "padim", 0))
