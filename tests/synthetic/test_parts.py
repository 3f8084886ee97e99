"""Rendered parts: masks that are where the defect is and nowhere else, variation, and VisA's layout read by eval."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_fill_holes, label

from eval.data.datasets import draw_shots, load_categories
from eval.data.layouts import VISA_OBJECTS
from synthetic.folder import write
from synthetic.parts import KINDS, OBJECTS, OPTIONS, VISIBLE, files, render, visible_change
from synthetic.relief import Relief

SIZE = 96
SMALL = {"train": 10, "test-normal": 5, "anomalies": 20, "size": SIZE, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "parts"
    assert write(folder, "synthetic.parts", SMALL, files)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int)).max(-1)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_where_the_picture_differs_from_its_flawless_twin(name: str, kind: str, monkeypatch) -> None:
    """The twin has the same pose, light and noise; it is rendered with the damage switched off."""
    image, mask = render(name, 3, kind, seed=5, size=SIZE)
    assert set(np.unique(mask)) == {0, KINDS.index(kind) + 1}
    draw = OBJECTS[name].draw
    monkeypatch.setattr(OBJECTS[name], "draw", lambda relief, rng, missing: draw(relief, rng, None))
    monkeypatch.setattr("synthetic.parts._DAMAGE", {})
    monkeypatch.setattr("synthetic.parts._SMALLEST", 0)
    twin, empty = render(name, 3, kind, seed=5, size=SIZE)
    assert not empty.any()
    changed = difference(image, twin) >= VISIBLE
    assert not (changed & (mask == 0)).any()
    near = binary_dilation(changed, iterations=2)
    assert not ((mask > 0) & ~near).any()  # closed gaps, and nothing else
    assert difference(image, twin)[~near].mean() < 1  # what is left outside is a shadow's faint end


@pytest.mark.parametrize("name", OBJECTS)
def test_defects_are_local_and_in_one_piece(name: str) -> None:
    areas = []
    for index in range(12):
        kind = KINDS[index % len(KINDS)]
        _, mask = render(name, index, kind, seed=1, size=SIZE)
        areas.append((mask > 0).mean())
        pieces, count = label(binary_fill_holes(binary_dilation(mask > 0, iterations=2)))
        assert np.bincount(pieces.ravel())[1:].max() > 0.5 * (pieces > 0).sum(), (kind, count)
    assert min(areas) >= 0.0004
    assert 0.002 < np.median(areas) < 0.02
    assert max(areas) < 0.12


def test_visible_change_counts_from_its_threshold_and_closes_small_gaps() -> None:
    one = np.full((40, 40, 3), 100, np.uint8)
    other = one.copy()
    other[10:20, 10:14, 1] += VISIBLE
    other[10:20, 17:20, 1] -= VISIBLE  # uint8 must not wrap around
    other[30:, 30:] += VISIBLE - 1
    found = visible_change(one, other)
    assert found[10:20, 10:20].all()
    assert found.sum() == 100


@pytest.mark.parametrize("name", OBJECTS)
def test_pose_light_and_noise_vary(name: str) -> None:
    pictures = [render(name, index, None, seed=0, size=SIZE)[0].astype(float) for index in range(8)]
    brightness = [picture.mean() for picture in pictures]
    assert 3 < np.std(brightness) < 25
    warmth = [picture[..., 0].mean() / picture[..., 2].mean() for picture in pictures]
    assert np.std(warmth) > 0.01
    frames = np.array([OBJECTS[name].draw(Relief(64, 96), np.random.default_rng(seed), None) for seed in range(8)])
    assert (frames.std(0) > (0.004, 0.004, 0.01, 0.005)).all()  # x, y, angle, scale
    for one, other in pairwise(pictures):
        assert 4 < np.abs(one - other).mean() < 60


@pytest.mark.parametrize("name", OBJECTS)
def test_picture_is_a_function_of_its_arguments(name: str) -> None:
    def bytes_of(index: int, kind: str | None = None, seed: int = 0) -> bytes:
        return b"".join(array.tobytes() for array in render(name, index, kind, seed=seed, size=64))

    once = [bytes_of(0), bytes_of(1), bytes_of(0, "stain"), bytes_of(0, "missing"), bytes_of(0, seed=1)]
    assert len(set(once)) == 5
    assert bytes_of(0, "stain") == once[2]
    assert bytes_of(1) == once[1]


def test_annotations_name_every_picture_and_every_kind(folder: Path) -> None:
    for name, part in OBJECTS.items():
        annotated = rows(folder / name / "image_anno.csv")
        on_disk = {path.relative_to(folder).as_posix() for path in (folder / name).rglob("*.JPG")}
        assert {row["image"] for row in annotated} == on_disk
        assert Counter(row["label"] for row in annotated) == {"normal": 15} | dict.fromkeys(KINDS, 5)
        for row in annotated:
            image = Image.open(folder / row["image"])
            assert image.size == (round(SIZE * part.ASPECT), SIZE)
            if row["label"] == "normal":
                assert row["mask"] == ""
            else:
                with Image.open(folder / row["mask"]) as mask:
                    assert mask.mode == "L"
                    assert mask.size == image.size
                    assert {number for _, number in mask.getcolors()} == {0, KINDS.index(row["label"]) + 1}


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("1cls", (10, 0), (5, 20)), ("2cls_highshot", (9, 12), (6, 8)), ("2cls_5shot", (3, 4), (12, 16))],
)
def test_eval_reads_every_split(folder: Path, protocol: str, train, test) -> None:
    categories = load_categories(folder, protocol)
    assert [category.name for category in categories] == sorted(OBJECTS)
    for category in categories:
        assert category.dataset == folder.name
        assert category.has_masks
        for samples, expected in ((category.train, train), (category.test, test)):
            assert Counter(sample.anomalous for sample in samples) == Counter(
                {False: expected[0], True: expected[1]} if expected[1] else {False: expected[0]}
            )


def test_few_shots_are_drawn_from_high_shots(folder: Path) -> None:
    few, high = (
        {sample.image for category in load_categories(folder, split) for sample in category.train}
        for split in ("2cls_5shot", "2cls_highshot")
    )
    assert few < high
    assert len(draw_shots(load_categories(folder, "2cls_5shot")[0], 3, 0).train) == 6


def test_no_result_on_rendered_parts_passes_for_one_on_visa(folder: Path) -> None:
    assert not set(OBJECTS) & set(VISA_OBJECTS)
    for name in OBJECTS:
        assert load_categories(folder / name, "1cls")[0].dataset != "visa"


def test_defaults_are_large_enough_for_every_protocol_but_ten_shots() -> None:
    default = {name: value for name, (value, _, _) in OPTIONS.items()}
    assert round(0.2 * default["anomalies"]) >= 5
    assert round(0.2 * (default["train"] + default["test-normal"])) >= 10
