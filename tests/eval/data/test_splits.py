"""Splits: VisA's as published, ours for other data, and the images drawn from them."""

import csv
import os
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from eval.data.datasets import draw_shots, load_categories
from tests.eval.helpers import SHARED, mask, mvtec_category, read_split, refusal, save, visa_tree

# Normal and anomalous images of training and test, as the authors' files have them.
PUBLISHED = {
    "1cls": {"candle": (900, 0, 100, 100), "capsules": (542, 0, 60, 100), "pcb3": (905, 0, 101, 100)},
    "2cls_highshot": {"candle": (600, 60, 400, 40), "chewinggum": (302, 60, 201, 40), "pcb3": (604, 60, 402, 40)},
    "2cls_fewshot": {"candle": (200, 20, 800, 80), "pcb2": (200, 20, 801, 80), "pcb4": (201, 20, 804, 80)},
}
TOTALS = {
    "1cls": (8659, 0, 962, 1200),
    "2cls_highshot": (5773, 720, 3848, 480),
    "2cls_fewshot": (1924, 240, 7697, 960),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """VisA's official splits over a tree in which every file is the same small picture."""
    if not (SHARED / "visa_splits").is_dir():
        pytest.skip("VisA's split files are not here")
    root = tmp_path_factory.mktemp("visa")
    shutil.copytree(SHARED / "visa_splits", root / "split_csv")
    picture = save(mask(), root / "picture.png")
    for row in read_split(root):
        for path in filter(None, row[3:]):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(picture, root / path)
    return root


def counts(category):
    parts = [category.train, category.test]
    return tuple(sum(s.anomalous == wanted for s in part) for part in parts for wanted in (False, True))


@pytest.mark.parametrize("protocol", PUBLISHED)
def test_published_splits_are_read_as_published(published, protocol):
    categories = load_categories(published, protocol)
    assert len(categories) == 12
    assert {c.split for c in categories} == {"official"}
    found = {c.name: counts(c) for c in categories}
    assert {name: found[name] for name in PUBLISHED[protocol]} == PUBLISHED[protocol]
    assert tuple(map(sum, zip(*found.values(), strict=True))) == TOTALS[protocol]
    assert all(s.mask for c in categories for s in (*c.train, *c.test) if s.anomalous)


def test_split_of_ones_own_is_not_called_official(tmp_path):
    assert {c.split for c in load_categories(visa_tree(tmp_path), "1cls")} == {"own"}


def test_shots_are_a_function_of_seed_and_object_and_nested(published):
    category, other = load_categories(published, "2cls_5shot", ["candle", "pcb1"])
    assert {s.image for s in category.train} == {
        s.image for s in load_categories(published, "2cls_fewshot", ["candle"])[0].train
    }
    five, ten = draw_shots(category, 5, 0), draw_shots(category, 10, 0)
    assert counts(five) == (5, 5, 800, 80)
    assert set(five.train) < set(ten.train) < set(category.train)
    assert draw_shots(replace(category, train=category.train[::-1]), 5, 0) == five
    assert draw_shots(category, 5, 1).train != five.train
    assert [s.image.name for s in draw_shots(other, 5, 0).train] != [s.image.name for s in five.train]
    assert five.test == category.test


def test_shots_of_all_twelve_objects_come_from_the_pool_and_nest(published):
    with (published / "split_csv" / "2cls_fewshot.csv").open() as file:
        pool = {row["image"]: row["label"] for row in csv.DictReader(file) if row["split"] == "train"}
    draws = {}
    for category in load_categories(published, "2cls_10shot"):
        for seed in range(5):
            five, ten = (draw_shots(category, shots, seed) for shots in (5, 10))
            names = [[s.image.relative_to(published).as_posix() for s in drawn.train] for drawn in (five, ten)]
            assert set(names[0]) < set(names[1])
            for shots, drawn in zip((5, 10), names, strict=True):
                assert Counter(pool[name] for name in drawn) == {"normal": shots, "anomaly": shots}
                assert all(name.startswith(f"{category.name}/") for name in drawn)
            assert draw_shots(category, 10, seed) == ten
            assert five.test == ten.test == category.test
            draws[category.name, seed] = tuple(names[1])
    assert len(set(draws.values())) == len(draws) == 12 * 5


def test_too_few_to_draw_from(tmp_path):
    category = load_categories(visa_tree(tmp_path), "1cls", ["pcb1"])[0]
    refusal(lambda: draw_shots(category, 5, 0), "pcb1", "0 anomalous training images, but 5")


def test_mvtec_layout_is_divided_by_names_alone(tmp_path):
    folder = mvtec_category(tmp_path / "a" / "tile", train=40, normal=10, anomalous=30)
    parts = {}
    for protocol, expected in (("2cls_highshot", (30, 18, 20, 12)), ("2cls_5shot", (10, 10, 40, 20))):
        (category,) = load_categories(folder, protocol)
        assert counts(category) == expected
        train, test = ({s.image for s in part} for part in (category.train, category.test))
        assert not train & test
        assert len(train | test) == 80
        assert category.split == "own"
        parts[protocol] = train
    assert parts["2cls_5shot"] < parts["2cls_highshot"]
    assert {s.image for s in load_categories(folder, "2cls_10shot")[0].train} == parts["2cls_5shot"]
    assert len({path.parent for path in parts["2cls_highshot"]}) == 3  # train/good, test/good and the defects
    moved = folder.rename(tmp_path / "screw")
    (again,) = load_categories(moved, "2cls_highshot")
    expected = {path.relative_to(folder) for path in parts["2cls_highshot"]}
    assert {s.image.relative_to(moved) for s in again.train} == expected


def test_a_pool_too_small_to_draw_from_is_named(tmp_path):
    (category,) = load_categories(mvtec_category(tmp_path / "tile", train=30, anomalous=12), "2cls_10shot")
    assert counts(category) == (10, 6, 24, 6)
    refusal(lambda: draw_shots(category, 10, 0), "tile", "6 anomalous training images, but 10")
