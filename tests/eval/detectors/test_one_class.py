"""All methods of the 1-class protocol from one pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.backbone.features import Extractor
from eval.data.datasets import load_categories
from eval.detectors.methods import DETECTORS, Settings, build_detectors
from eval.detectors.one_class import OneClassPredictor
from eval.metrics.metrics import PIXEL_METRICS
from eval.predictions import Run
from eval.protocols import repetitions
from eval.results import read_results
from eval.run import Request, evaluate
from spd_weights.stages import REDUCTIONS
from tests.eval.helpers import RANDOM, mvtec_category

SETTINGS = Settings(image_size=64, padim_dims=8, coreset_ratio=0.3)


def quiet(stage, done, of):
    pass


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    mvtec_category(tmp_path_factory.mktemp("data") / "set" / "tile")
    return load_categories(tmp_path_factory.getbasetemp() / "data0" / "set", "1cls")[0]


@pytest.fixture
def predictor():
    return OneClassPredictor(RANDOM, list(DETECTORS), SETTINGS)


def test_together_as_alone_and_every_image_extracted_once(category, predictor, monkeypatch):
    seen, extract = [], Extractor.__call__

    def counting(self, images):
        seen.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(Extractor, "__call__", counting)
    runs = repetitions("1cls", list(DETECTORS), 2)
    together = predictor.predict(category, runs, 0, quiet)
    assert sum(seen) == len(category.train) + len(category.test)
    assert list(together) == runs
    for run in runs:
        alone = predictor.predict(category, [run], 0, quiet)[run]
        np.testing.assert_array_equal(together[run].scores, alone.scores)
        if alone.maps is None:
            assert run.method in ("gaussian", "knn")
        else:
            np.testing.assert_array_equal(together[run].maps, alone.maps)


def test_methods_without_randomness_run_once():
    runs = repetitions("1cls", list(DETECTORS), 3)
    counts = {method: sum(run.method == method for run in runs) for method in DETECTORS}
    assert counts == {"padim": 3, "patchcore": 3, "patchknn": 1, "gaussian": 1, "knn": 1}


def test_seeds_differ_where_there_is_chance(category, predictor):
    runs = repetitions("1cls", ["padim", "patchcore"], 2)
    found = predictor.predict(category, runs, 0, quiet)
    for method in ("padim", "patchcore"):
        first, second = (found[Run("1cls", method, seed)].scores for seed in (0, 1))
        assert not np.array_equal(first, second)


def test_detectors_see_the_crop(category, predictor):
    run = Run("1cls", "knn", 0)
    cropping = OneClassPredictor(RANDOM, ["knn"], replace(SETTINGS, resize="short-crop"))
    whole, cropped = (each.predict(category, [run], 0, quiet)[run].scores for each in (predictor, cropping))
    assert not np.array_equal(whole, cropped)


def test_every_method_finds_the_defect_and_says_why_it_has_no_map(category, tmp_path):
    data = category.folder.parent
    evaluate(Request(["random:test_resnet"], data, tmp_path, methods=list(DETECTORS), settings=SETTINGS, workers=0))
    rows = read_results(tmp_path)["rows"]
    for method in DETECTORS:
        of_method = {row["metric"]: row for row in rows if row["method"] == method}
        assert of_method["image_auroc"]["value"] == 1.0
        for metric in PIXEL_METRICS:
            if method in ("gaussian", "knn"):
                assert of_method[metric]["value"] is None
                assert "whole images" in of_method[metric]["reason"]
        if method in ("padim", "patchcore", "patchknn"):
            assert of_method["pixel_auroc"]["value"] > 0.9


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "levit_128s"])
def test_every_stage_has_a_map(architecture):
    size = 224 if architecture == "levit_128s" else 64
    extractor = Extractor(f"random:{architecture}", size, REDUCTIONS)
    maps = extractor(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    for method in DETECTORS.values():
        chosen = extractor.select(maps, method.reductions)
        assert 1 <= len(chosen) <= len(method.reductions)
        assert len({id(m) for m in chosen}) == len(chosen)
    assert extractor.select(maps, (32,))[0] is maps[-1]


@pytest.mark.parametrize("method", DETECTORS)
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_detector_is_its_state_dict(category, predictor, method, covariance):
    """Loaded into a fresh detector, on any device, it gives the same scores and maps."""
    settings = replace(SETTINGS, padim_covariance=covariance)
    (fitted,) = build_detectors(method, settings, [0], len(category.train))
    (fresh,) = build_detectors(method, settings, [1], 0)
    images = torch.randint(256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    features = predictor.extractor.select(predictor.extractor(images), fitted.reductions)
    fitted.update(features)
    fitted.fit()
    fresh.load_state_dict(fitted.state_dict())
    for expected, found in zip(fitted(features), fresh(features), strict=True):
        assert (expected is None and found is None) or torch.equal(expected, found)
    moved = fresh.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
    incomplete = dict(list(fitted.state_dict().items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        build_detectors(method, settings, [0], 0)[0].load_state_dict(incomplete)
