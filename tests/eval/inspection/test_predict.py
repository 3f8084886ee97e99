"""A detector that is fitted, kept in a file, and used on photographs."""

import json
import shutil

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import binom

from eval.__main__ import main
from eval.detectors.methods import DETECTORS, Settings
from eval.inspection.fit import FitOptions, fit
from eval.inspection.photographs import find_photographs
from eval.inspection.predict import predict
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import DEFECT, SIZE, mvtec_category, tiny_export

SETTINGS = Settings(image_size=64, padim_dims=8, coreset_ratio=0.3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A category and weights that no test changes."""
    root = tmp_path_factory.mktemp("inspection")
    mvtec_category(root / "set" / "tile", train=20, normal=30)
    tiny_export(root / "run" / "export")
    return root


def fitted(place, folder, method="padim", weights=None):
    file = folder / f"{method}.safetensors"
    normal = find_photographs([place / "set" / "tile" / "train"])
    fit(normal, file, FitOptions(weights or str(place / "run"), method, SETTINGS, workers=0))
    return file


@pytest.mark.parametrize("method", DETECTORS)
def test_scores_are_the_evaluations(place, tmp_path, method):
    weights = str(place / "run")
    evaluate(
        Request(
            [weights], place / "set", tmp_path / "out", methods=[method], settings=SETTINGS, save_maps=True, workers=0
        )
    )
    saved = np.load(next((tmp_path / "out").rglob("maps.npz")), allow_pickle=False)
    photos = [place / "set" / "tile" / name for name in saved["images"]]
    content = predict(fitted(place, tmp_path, method), photos, tmp_path / "used")
    np.testing.assert_allclose([row["score"] for row in content["images"]], saved["scores"], rtol=1e-4)
    assert json.loads((tmp_path / "used" / "scores.json").read_text()) == json.loads(json.dumps(content))
    pictures = sorted((tmp_path / "used").glob("*-heat.png"))
    assert len(pictures) == (34 if method in ("padim", "patchcore", "patchknn") else 0)
    assert content["seconds_per_image"] > 0
    assert content["peak_memory_mib"] > 10


def test_heat_is_brightest_on_the_defect_at_the_photographs_shape(place, tmp_path):
    content = predict(fitted(place, tmp_path), [place / "set" / "tile" / "test" / "spot" / "000.png"], tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / content["images"][0]["heat"])).astype(float)
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    warm = picture[..., 0] - picture[..., 2] / 2
    y, x = np.unravel_index(warm.argmax(), warm.shape)
    left, right, top, bottom = DEFECT
    assert left - 3 < x < right + 3
    assert top - 3 < y < bottom + 3


@pytest.mark.parametrize("method", DETECTORS)
def test_defects_are_above_the_threshold_and_unseen_normal_images_are_not(place, tmp_path, method):
    """The highest score of a training image would be below almost all unseen normal images."""
    file = fitted(place, tmp_path, method)
    test = predict(file, [place / "set" / "tile" / "test" / "spot"], tmp_path / "test")
    assert all(row["above_hint"] for row in test["images"])
    normal = predict(file, [place / "set" / "tile" / "test" / "good"], tmp_path / "normal")
    rate = normal["detector"]["false_alarm_rate"]
    assert rate == pytest.approx(1 / 21)
    alarms = sum(row["above_hint"] for row in normal["images"])
    assert alarms <= binom.ppf(0.999, len(normal["images"]), rate)


def test_heat_has_the_same_colours_whatever_else_is_scored(place, tmp_path):
    file, tests = fitted(place, tmp_path), place / "set" / "tile" / "test"
    alone = predict(file, [tests / "good" / "000.png"], tmp_path / "alone")
    together = predict(file, [tests / "good" / "000.png", tests / "spot"], tmp_path / "together")
    assert alone["heat_range"] == together["heat_range"]
    pictures = [np.asarray(Image.open(tmp_path / out / "000-heat.png")) for out in ("alone", "together")]
    assert np.array_equal(*pictures)


def test_photographs_of_one_name_keep_their_own_heat_maps(place, tmp_path):
    folder = place / "set" / "tile" / "test"
    content = predict(fitted(place, tmp_path), [folder / "spot", folder / "good"], tmp_path / "out")
    names = [row["heat"] for row in content["images"]]
    assert len(set(names)) == 34
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == set(names)


def test_unreadable_photograph_is_named_and_the_others_are_kept(place, tmp_path, capsys):
    good = place / "set" / "tile" / "test" / "spot" / "000.png"
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    file = fitted(place, tmp_path)
    assert main(["predict", str(file), str(text), str(good), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: 1 of 2 images")
    assert "notes.png: not a readable image" in printed.err
    assert "ms per image" in printed.out
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["images"]
    assert rows[0]["score"] is None
    assert rows[1]["score"] > 0


def test_missing_photograph_and_empty_folder(place, tmp_path):
    file = fitted(place, tmp_path)
    with pytest.raises(SpdError, match=r"gone\.png: no such photograph"):
        predict(file, [tmp_path / "gone.png"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpdError, match="no photograph"):
        predict(file, [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_detector(place, tmp_path):
    photo = place / "set" / "tile" / "test" / "spot" / "000.png"
    file = fitted(place, tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-40])
    for wrong, reason in (
        (tmp_path / "none.safetensors", "no such file"),
        (photo, "not a detector"),
        (cut, "damaged"),
        (place / "run" / "export" / "model.safetensors", "not a detector"),
    ):
        with pytest.raises(SpdError, match=reason) as caught:
            predict(wrong, [photo], tmp_path / "out")
        assert str(wrong) in str(caught.value)


def test_changed_backbone_is_refused_and_a_moved_one_found(place, tmp_path):
    photo = place / "set" / "tile" / "test" / "spot" / "000.png"
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    file = fitted(place, tmp_path, weights=str(run))
    expected = predict(file, [photo], tmp_path / "out")["images"][0]["score"]
    shutil.rmtree(run)
    tiny_export(run / "export", seed=1)
    with pytest.raises(SpdError, match="not those") as caught:
        predict(file, [photo], tmp_path / "out")
    assert "--weights" in str(caught.value)
    moved = predict(file, [photo], tmp_path / "out", weights=str(place / "run"))
    assert moved["images"][0]["score"] == expected


def test_file_holds_tensors_and_plain_text_only(place, tmp_path):
    file = fitted(place, tmp_path, "patchcore")
    assert load_file(file).keys() == {"bank"}


@pytest.mark.parametrize(
    ("schema", "tensors", "reason"),
    [(2, {"bank": torch.zeros(1, 2)}, "in format 2, this version reads format 3; fit it again"),
     (None, {"bank": torch.zeros(1, 2)}, "not a detector"),
     (3, {"other": torch.zeros(1, 2)}, "damaged detector")],
)  # fmt: skip
def test_file_of_another_format_or_with_other_tensors(place, tmp_path, schema, tensors, reason):
    good = fitted(place, tmp_path, "patchcore")
    with safetensors.safe_open(good, framework="pt") as file:
        about = json.loads(file.metadata()["anomaly_detector"])
    about = {**about, "schema": schema} if schema else {}
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad, metadata={"anomaly_detector": json.dumps(about)})
    with pytest.raises(SpdError, match=reason):
        predict(bad, [place / "set" / "tile" / "test" / "good"], tmp_path / "out")


def test_fit_command_and_its_mistakes(place, tmp_path, capsys):
    command = ["fit", "--weights", "random:test_resnet", "--data", str(place / "set"), "--image-size", "64"]
    file = tmp_path / "deep" / "knn.safetensors"
    assert main([*command, "--category", "tile", "--method", "knn", "--save", str(file), "--workers", "0"]) == 0
    assert "next: python -m eval predict" in capsys.readouterr().out
    assert file.is_file()
    assert main([*command, "--category", "screw", "--save", str(file)]) == 2
    assert "screw" in capsys.readouterr().err
