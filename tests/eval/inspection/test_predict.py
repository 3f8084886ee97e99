"""A detector that is fitted, kept in a file, and used on photographs."""

import csv
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
from eval.detectors.methods import DETECTORS
from eval.inspection.predict import predict
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from tests.eval.helpers import DEFECT, SIZE, tiny_export
from tests.eval.inspection.helpers import SETTINGS, fitted


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
    done = predict(fitted(place, tmp_path, method), photos, tmp_path / "used", workers=0)
    np.testing.assert_allclose([row["score"] for row in done.rows], saved["scores"], rtol=1e-4)
    lines = (tmp_path / "used" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == done.rows
    with open(tmp_path / "used" / "scores.csv", newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [row["score"] for row in done.rows]
    width = Image.open(tmp_path / "used" / done.rows[0]["picture"]).width
    assert (width > 2 * SIZE[0]) == (method in ("padim", "patchcore", "patchknn"))
    assert done.seconds_per_image > 0


def heat_of(out, row):
    """The heat map of a picture: its right half."""
    return np.asarray(Image.open(out / row["picture"])).astype(float)[:, -SIZE[0] :]


def test_heat_is_brightest_on_the_defect_at_the_photographs_shape(place, tmp_path):
    photo = place / "set" / "tile" / "test" / "spot" / "000.png"
    done = predict(fitted(place, tmp_path), [photo], tmp_path / "out")
    picture = heat_of(tmp_path / "out", done.rows[0])
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
    assert all(row["above"] for row in test.rows)
    normal = predict(file, [place / "set" / "tile" / "test" / "good"], tmp_path / "normal")
    assert normal.above <= binom.ppf(0.999, len(normal.rows), 1 / 21)


def test_heat_has_the_same_colours_whatever_else_is_scored(place, tmp_path):
    file, tests = fitted(place, tmp_path), place / "set" / "tile" / "test"
    alone = predict(file, [tests / "good" / "000.png"], tmp_path / "alone")
    together = predict(file, [tests / "spot", tests / "good" / "000.png"], tmp_path / "together")
    pictures = [heat_of(tmp_path / "alone", alone.rows[0]), heat_of(tmp_path / "together", together.rows[-1])]
    assert np.array_equal(*pictures)


def test_photographs_of_one_name_keep_their_own_pictures(place, tmp_path):
    folder = place / "set" / "tile" / "test"
    done = predict(fitted(place, tmp_path), [folder / "spot", folder / "good"], tmp_path / "out")
    names = [row["picture"] for row in done.rows]
    assert len(set(names)) == 34
    assert {f"pictures/{path.name}" for path in (tmp_path / "out" / "pictures").iterdir()} == set(names)


def test_exit_codes_say_what_was_found(place, tmp_path, capsys):
    file, tests = str(fitted(place, tmp_path)), place / "set" / "tile" / "test"
    text = tmp_path / "notes.png"
    text.write_text("no picture")

    def code(*images, out="out", options=()):
        return main(["predict", file, *map(str, images), "--out", str(tmp_path / out), "--workers", "0", *options])

    assert code(tests / "spot", out="bad") == 3
    assert "4 of 4 photographs are above the threshold" in capsys.readouterr().out
    assert code(tests / "spot", out="high", options=["--threshold", "1e9"]) == 0
    assert code(text, tests / "spot" / "000.png", out="high", options=["--threshold", "1e9"]) == 2
    printed = capsys.readouterr()
    assert "notes.png: not a readable image" in printed.out
    assert printed.err == "error: 1 of 5 photographs were not scored\n"
    assert code(text, tests / "spot", out="both") == 3
    rows = [json.loads(line) for line in (tmp_path / "both" / "scores.jsonl").read_text().splitlines()]
    assert [row["score"] is None for row in rows] == [True, False, False, False, False]


def test_only_new_and_changed_photographs_are_scored_again(place, tmp_path):
    file, folder, out = fitted(place, tmp_path), tmp_path / "photos", tmp_path / "photos" / "out"
    shutil.copytree(place / "set" / "tile" / "test" / "spot", folder)
    first = predict(file, [folder], out)
    assert first.scored == 4
    lines = (out / "scores.jsonl").read_text()
    (out / "scores.jsonl").write_text("\n".join(lines.splitlines()[:2]) + '\n{"image": "cut o')  # a kill while writing
    second = predict(file, [folder], out)
    assert second.scored == 2
    assert second.rows == first.rows
    assert (out / "scores.jsonl").read_text() == lines
    shutil.copy(place / "set" / "tile" / "test" / "good" / "000.png", folder / "001.png")
    third = predict(file, [folder], out)
    assert third.scored == 1
    changed = {row["image"]: row for row in third.rows}[str(folder / "001.png")]
    assert changed["score"] < first.rows[1]["score"]
    assert changed["picture"] == first.rows[1]["picture"]


def test_scores_of_another_detector_or_threshold_are_not_mixed(place, tmp_path):
    photo = place / "set" / "tile" / "test" / "spot" / "000.png"
    file = fitted(place, tmp_path)
    predict(file, [photo], tmp_path / "out")
    for call in (
        lambda: predict(fitted(place, tmp_path, "knn"), [photo], tmp_path / "out"),
        lambda: predict(file, [photo], tmp_path / "out", threshold=1.0),
    ):
        with pytest.raises(SpdError, match="another detector or threshold; choose another --out"):
            call()
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == 1


def test_detectors_of_before_the_threshold_was_renamed_are_read(place, tmp_path):
    file, photo = fitted(place, tmp_path, "knn"), place / "set" / "tile" / "test" / "spot" / "000.png"
    with safetensors.safe_open(file, framework="pt") as saved:
        about = json.loads(saved.metadata()["anomaly_detector"])
    older = {"threshold_hint" if key == "threshold" else key: value for key, value in about.items()}
    save_file(load_file(file), tmp_path / "older.safetensors", metadata={"anomaly_detector": json.dumps(older)})
    done = predict(tmp_path / "older.safetensors", [photo], tmp_path / "out", workers=0)
    assert done.threshold == about["threshold"]


def test_tiles_find_a_defect_that_one_small_input_loses(tmp_path, place):
    """A defect of 5 px in a photograph of 320 px, seen at 64 px."""
    rng = np.random.default_rng(0)
    for index in range(14):
        pixels = rng.integers(100, 120, (320, 320, 3), dtype=np.uint8)
        if index == 13:
            pixels[150:155, 100:105] = 0
        name = "train/good" if index < 12 else "test"
        (tmp_path / "set" / "tile" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / "tile" / name / f"{index:02}.png")
    shutil.copytree(place / "run", tmp_path / "run")
    excess = {}
    for tiles in (1, 4):
        folder = tmp_path / str(tiles)
        done = predict(fitted(tmp_path, folder, "patchcore", tiles=tiles), [tmp_path / "set/tile/test"], folder / "out")
        good, bad = (row["score"] / done.threshold for row in done.rows)
        excess[tiles] = bad / good
    assert done.rows[1]["above"]
    assert excess[4] > 1.5 * excess[1]
    heat = np.asarray(Image.open(folder / "out" / done.rows[1]["picture"])).astype(float)[:, -320:]
    warmth = heat[..., 0] - heat[..., 2] / 2
    y, x = np.argwhere(warmth > warmth.max() / 2).mean(0)  # its centre: the hottest pixels are darker red
    assert abs(y - 152) < 32  # two patches
    assert abs(x - 102) < 32


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
    expected = predict(file, [photo], tmp_path / "before").rows[0]["score"]
    shutil.rmtree(run)
    tiny_export(run / "export", seed=1)
    with pytest.raises(SpdError, match="not those") as caught:
        predict(file, [photo], tmp_path / "out")
    assert "--weights" in str(caught.value)
    moved = predict(file, [photo], tmp_path / "out", weights=str(place / "run"))
    assert moved.rows[0]["score"] == expected


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
