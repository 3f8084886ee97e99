"""Finished cells are kept; whatever changes the numbers is measured again."""

import shutil

import pytest

from eval.detectors.methods import Settings
from eval.detectors.one_class import OneClassPredictor
from eval.run import evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import RANDOM, mvtec_category, request, rows, tiny_export


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
