"""Data sets recognised by their layout, and every kind of broken data refused by name."""

import os

import pytest

from eval.data.datasets import load_categories
from eval.data.images import read_image
from eval.data.masks import read_masks
from eval.protocols import check
from tests.eval.helpers import mask, mvtec_category, read_split, refusal, save, visa_tree, write_split


def names(categories):
    return [(c.dataset, c.name, len(c.train), len(c.test)) for c in categories]


def test_mvtec_at_three_depths(tmp_path):
    folder = mvtec_category(tmp_path / "set" / "tile")
    (tmp_path / "set" / "notes.txt").write_text("no category")
    (folder / "extra_unmasked").mkdir()
    (folder / "train" / "good" / "Thumbs.db").write_bytes(b"no image")
    (folder / "train" / "good" / "._000.png").write_bytes(b"no image either")
    expected = [("set", "tile", 6, 8)]
    for root in (folder, tmp_path / "set", tmp_path):
        assert names(load_categories(root, "1cls")) == expected


def test_visa_as_released(tmp_path):
    root = visa_tree(tmp_path / "VisA_20220922")
    assert names(load_categories(root, "1cls")) == [("visa", "candle", 5, 6), ("visa", "pcb1", 5, 6)]
    assert names(load_categories(root / "pcb1", "1cls")) == [("visa", "pcb1", 5, 6)]
    category = load_categories(root, "1cls", ["pcb1"])[0]
    masks = read_masks(category.test, 50)
    anomalous = [sample.anomalous for sample in category.test]
    assert masks.any(axis=(1, 2)).tolist() == anomalous  # class ids 1, 2 and 3 all count as defect


def test_other_objects_in_visas_layout_are_not_visa(tmp_path):
    root = visa_tree(tmp_path / "mine", ("pcb1", "gear"))
    assert {c.dataset for c in load_categories(root, "1cls")} == {"mine"}
    assert load_categories(root / "pcb1", "1cls")[0].dataset == "mine"
    rendered = visa_tree(tmp_path / "visa", ("gear",))
    assert {c.dataset for c in load_categories(rendered, "1cls")} == {"visa-layout"}
    assert mvtec_category(tmp_path / "VisA" / "pcb1")
    assert {c.dataset for c in load_categories(tmp_path / "VisA", "1cls")} == {"VisA-layout"}


def test_training_images_come_from_the_train_split_alone(tmp_path):
    visa = load_categories(visa_tree(tmp_path / "visa"), "1cls")
    rows = {row[3]: row[1] for row in read_split(tmp_path / "visa")}
    for category in visa:
        for part, samples in (("train", category.train), ("test", category.test)):
            assert {rows[s.image.relative_to(tmp_path / "visa").as_posix()] for s in samples} == {part}
    tile = load_categories(mvtec_category(tmp_path / "set" / "tile"), "1cls")[0]
    assert all("/train/good/" in s.image.as_posix() and not s.anomalous for s in tile.train)
    assert not {s.image for s in tile.train} & {s.image for s in tile.test}


def test_missing_empty_and_unknown_folders(tmp_path):
    refusal(lambda: load_categories(tmp_path / "no", "1cls"), tmp_path / "no", "no such folder")
    refusal(lambda: load_categories(tmp_path, "1cls"), tmp_path, "empty", "Data/Images/Normal", "train/good")
    (tmp_path / "holiday").mkdir()
    refusal(lambda: load_categories(tmp_path, "1cls"), "no data set recognised", "train/good")


def test_unknown_category_lists_the_known(tmp_path):
    mvtec_category(tmp_path / "tile")
    refusal(lambda: load_categories(tmp_path, "1cls", ["tyle"]), "tyle", "there are: tile")


def test_missing_split_table_is_named(tmp_path):
    root = visa_tree(tmp_path)
    (root / "split_csv" / "1cls.csv").unlink()
    refusal(lambda: load_categories(root, "1cls"), root / "split_csv" / "1cls.csv")


def edited(root, edit):
    rows = read_split(root)
    edit(rows)
    write_split(root, rows)
    return lambda: load_categories(root, "1cls", ["pcb1"])


def test_broken_split_tables(tmp_path):
    root = visa_tree(tmp_path / "visa")
    original = read_split(root)
    first, last = original[0], original[10]
    cases = [
        (lambda rows: rows.append(list(first)), ("0000.JPG", "twice")),
        (lambda rows: rows.append([first[0], "test", *first[2:]]), ("0000.JPG", "in train and in test")),
        (lambda rows: rows[0].__setitem__(3, "../outside.JPG"), ("line 2", "../outside.JPG", "leaves")),
        (lambda rows: rows[0].__setitem__(3, "/etc/hostname"), ("line 2", "/etc/hostname", "leaves")),
        (lambda rows: rows[0].__setitem__(3, "pcb1/gone.JPG"), ("line 2", "gone.JPG", "does not exist")),
        (lambda rows: rows[0].__setitem__(1, "val"), ("line 2", "'val'")),
        (lambda rows: rows[10].__setitem__(4, ""), (last[3], "without a mask")),
        (lambda rows: rows.__delitem__(slice(0, 11)), ("1cls.csv", "no row for 'pcb1'")),
    ]
    for edit, mentions in cases:
        write_split(root, original)
        refusal(edited(root, edit), *mentions)
    (root / "split_csv" / "1cls.csv").write_text("object,image\npcb1,x.JPG\n")
    refusal(lambda: load_categories(root, "1cls"), "1cls.csv", "columns object, split")


def test_same_file_in_train_and_test_through_a_link(tmp_path):
    folder = mvtec_category(tmp_path / "tile")
    os.symlink(folder / "train" / "good" / "000.png", folder / "test" / "good" / "900.png")
    refusal(lambda: load_categories(folder, "1cls"), "900.png", "in train and in test")


def test_mvtec_masks_missing_misnamed_or_of_another_size(tmp_path):
    folder = mvtec_category(tmp_path / "tile")
    truth = folder / "ground_truth" / "spot"
    save(mask().resize((25, 15)), truth / "002_mask.png")
    refusal(lambda: load_categories(folder, "1cls"), truth / "002_mask.png", "25 x 15", "50 x 30")
    (truth / "002_mask.png").unlink()
    refusal(lambda: load_categories(folder, "1cls"), "spot/002.png", "without a mask")
    for path in truth.iterdir():
        path.rename(path.with_name(path.name.replace("_mask", "")))
    refusal(lambda: load_categories(folder, "1cls"), folder / "ground_truth", "_mask.png")


def test_category_without_masks_is_accepted(tmp_path):
    category = load_categories(mvtec_category(tmp_path / "alien", masks=False), "1cls")[0]
    assert not category.has_masks
    assert read_masks(category.test, 20) is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"anomalous": 0}, "no test anomaly"),
        ({"normal": 0}, "no normal test image"),
        ({"train": 0}, "no training image"),
    ],
)
def test_splits_that_measure_nothing(tmp_path, counts, said):
    folder = mvtec_category(tmp_path / "tile", **counts)
    (folder / "train" / "good").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "good").mkdir(parents=True, exist_ok=True)
    refusal(lambda: check(load_categories(folder, "1cls")[0], "1cls"), "tile", said)


def test_anomaly_in_the_one_class_training_split(tmp_path):
    root = visa_tree(tmp_path)
    load = edited(root, lambda rows: rows[10].__setitem__(1, "train"))
    refusal(lambda: check(load()[0], "1cls"), "Anomaly/002.JPG", "training split")


def test_mask_that_marks_nothing(tmp_path):
    folder = mvtec_category(tmp_path / "tile")
    empty = save(mask(value=0), folder / "ground_truth" / "spot" / "001_mask.png")
    refusal(lambda: read_masks(load_categories(folder, "1cls")[0].test, 20), empty, "marks no pixel")


def test_damaged_images(tmp_path):
    folder = mvtec_category(tmp_path / "tile")
    image = folder / "train" / "good" / "001.png"
    image.write_bytes(image.read_bytes()[:900])
    refusal(lambda: read_image(image, 20), image, "damaged")
    image.write_bytes(b"hello")
    refusal(lambda: read_image(image, 20), image, "not a readable image")
    refusal(lambda: read_image(image.with_name("gone.png"), 20), "gone.png", "no such file")
    deep = save(mask().convert("I;16"), tmp_path / "deep.png")
    refusal(lambda: read_image(deep, 20), deep, "8 of 16 bits")


def test_fingerprint_notices_changed_data(tmp_path):
    folder = mvtec_category(tmp_path / "tile")
    before = load_categories(folder, "1cls")[0].fingerprint
    assert load_categories(folder, "1cls")[0].fingerprint == before
    (folder / "test" / "good" / "003.png").unlink()
    assert load_categories(folder, "1cls")[0].fingerprint != before
