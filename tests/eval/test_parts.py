"""The rendered parts: VisA's layout read with nothing of ours, exact masks, the same bytes again."""

import csv
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_fill_holes

from spd_weights.errors import SpdError
from synthetic.parts.__main__ import main
from synthetic.parts.camera import Shot
from synthetic.parts.dataset import Arguments, write, write_splits
from synthetic.parts.render import OBJECTS, VISIBLE, difference, expose, render

SIZE = 96
MOVING = {"pcb": ("missing", "displaced"), "capsules": ("bent",)}  # old and new place count as a whole
ARGUMENTS = Arguments(objects=("gear", "biscuit"), train=10, test_normal=5, anomalies=10, size=SIZE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts") / "visa"
    assert write(root, ARGUMENTS)
    return root


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ARGUMENTS.objects)
def test_annotations_name_every_picture_and_mask(root: Path, name: str) -> None:
    rows = _rows(root / name / "image_anno.csv")
    assert list(rows[0]) == ["image", "label", "mask"]
    on_disk = {str(p.relative_to(root)) for p in (root / name / "Data" / "Images").rglob("*")}
    assert {row["image"] for row in rows} == {path for path in on_disk if path.endswith(".JPG")}
    assert Counter(row["label"] == "normal" for row in rows) == {True: 15, False: 10}
    seen = set()
    for row in rows:
        image = np.asarray(Image.open(root / row["image"]))
        assert image.shape == (SIZE, round(SIZE * OBJECTS[name].ASPECT), 3)
        assert image.shape[0] != image.shape[1]
        if row["label"] == "normal":
            assert "/Normal/" in row["image"]
            assert row["mask"] == ""
            continue
        assert row["mask"] == row["image"].replace("Images", "Masks").replace(".JPG", ".png")
        opened = Image.open(root / row["mask"])
        mask = np.asarray(opened)
        assert opened.mode == "L"
        assert mask.shape == image.shape[:2]
        kinds = {OBJECTS[name].KINDS[number - 1] for number in np.unique(mask) if number}
        assert kinds
        assert kinds <= set(row["label"].split(","))  # a second defect may hide the first
        seen |= kinds
    assert seen == set(OBJECTS[name].KINDS)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("1cls", {"train,normal": 10, "test,normal": 5, "test,anomaly": 10}),
        ("2cls_highshot", {"train,normal": 9, "train,anomaly": 6, "test,normal": 6, "test,anomaly": 4}),
        ("2cls_fewshot", {"train,normal": 3, "train,anomaly": 2, "test,normal": 12, "test,anomaly": 8}),
    ],
)
def test_splits_have_visas_columns_and_shares(root: Path, file: str, expected: dict[str, int]) -> None:
    rows = _rows(root / "split_csv" / f"{file}.csv")
    assert list(rows[0]) == ["object", "split", "label", "image", "mask"]
    for name in ARGUMENTS.objects:
        mine = [row for row in rows if row["object"] == name]
        assert Counter(f"{row['split']},{row['label']}" for row in mine) == expected
        images = [row["image"] for row in mine]
        assert len(set(images)) == len(images) == 25  # so train and test are disjoint and nothing is left out
        assert all((root / row["image"]).is_file() and row["image"].startswith(f"{name}/") for row in mine)
        assert all(bool(row["mask"]) == (row["label"] == "anomaly") for row in mine)


def test_fewshot_training_is_part_of_highshot_training(root: Path) -> None:
    few, high = (
        {row["image"] for row in _rows(root / "split_csv" / f"{file}.csv") if row["split"] == "train"}
        for file in ("2cls_fewshot", "2cls_highshot")
    )
    assert few < high


def test_shares_give_visas_own_counts(tmp_path: Path) -> None:
    """VisA's pcb1: of 1,004 normals and 100 anomalies, 602 and 60 (highshot), 201 and 20 (fewshot) train."""
    write_splits(tmp_path / "split_csv", Arguments(objects=("pcb",), train=904, test_normal=100, anomalies=100))
    for file, normal, anomalous in (("1cls", 904, 0), ("2cls_highshot", 602, 60), ("2cls_fewshot", 201, 20)):
        train = [row for row in _rows(tmp_path / "split_csv" / f"{file}.csv") if row["split"] == "train"]
        assert Counter(row["label"] for row in train) == Counter(normal=normal, anomaly=anomalous)


@pytest.mark.parametrize("name", OBJECTS)
def test_mask_is_exactly_what_changed(name: str) -> None:
    """Against the flawless picture of the same pose, light and noise, which is rendered here on its own."""
    part = OBJECTS[name]
    for index, kind in enumerate(part.KINDS):
        rng = np.random.default_rng(index)
        scene, shot = part.layout(rng), Shot.draw(rng)
        flawless, _ = expose(part, scene, shot, SIZE)
        damaged = part.damage(scene, kind, rng)
        seen, owner = expose(part, damaged, shot, SIZE)
        gap = np.abs(flawless.astype(int) - seen.astype(int)).max(-1)
        np.testing.assert_array_equal(difference(flawless, seen), gap >= VISIBLE)
        assert gap.max() > VISIBLE, kind
        assert (gap > 0).mean() < 0.25, f"{kind} changes far more than a local defect may"
        if damaged.moved and kind != "missing":
            assert np.isin(owner, damaged.moved).any()


@pytest.mark.parametrize("name", OBJECTS)
def test_written_mask_is_the_difference_to_the_twin_without_defect(name: str) -> None:
    part = OBJECTS[name]
    for index in range(len(part.KINDS)):
        seen, mask, kinds = render(name, index, seed=3, size=SIZE, anomalous=True)
        twin, empty, none = render(name, index, seed=3, size=SIZE, anomalous=True, flawless=True)
        assert not empty.any()
        assert none == ()
        changed = difference(twin, seen)
        if len(kinds) > 1:  # two defects may cancel where they overlap
            assert (changed == (mask > 0)).mean() > 0.99
        elif kinds[0] in MOVING.get(name, ()):
            assert not (changed & (mask == 0)).any()
            assert changed[mask > 0].mean() > 0.5
        else:
            np.testing.assert_array_equal(changed, mask > 0)


def test_of_two_defects_each_keeps_its_own_number() -> None:
    both = 0
    for index in range(120):
        _, mask, kinds = render("gear", index, seed=0, size=64, anomalous=True)
        if len(kinds) == 2:
            numbers = {OBJECTS["gear"].KINDS.index(kind) + 1 for kind in kinds}
            assert set(np.unique(mask)) - {0} <= numbers
            both += len(np.unique(mask)) == 3
    assert 4 <= both <= 24  # one in ten


def test_moved_parts_count_as_a_whole() -> None:
    """A bent capsule's inside looks the same here and there before and after, and is marked all the same."""
    hidden = 0
    for index in (4, 11, 18):  # "bent" is the fifth of seven kinds
        seen, mask, kinds = render("capsules", index, seed=0, size=SIZE, anomalous=True)
        twin, _, _ = render("capsules", index, seed=0, size=SIZE, anomalous=True, flawless=True)
        assert kinds[0] == "bent"
        whole = mask == OBJECTS["capsules"].KINDS.index("bent") + 1
        assert (binary_fill_holes(whole) & ~whole).sum() <= 2
        hidden += (whole & ~difference(twin, seen)).sum()
    assert hidden > 20


def test_displaced_component_leaves_one_place_for_another() -> None:
    part = OBJECTS["pcb"]
    rng = np.random.default_rng(1)
    scene, shot = part.layout(rng), Shot.draw(rng)
    hurt = part.damage(scene, "displaced", rng)
    (number,) = hurt.moved
    old, new = (expose(part, layout, shot, SIZE).owner == number for layout in (scene, hurt))
    assert (old & ~new).any()
    assert (new & ~old).any()


def test_defects_have_visas_sizes() -> None:
    areas = [
        (render(name, index, seed=7, size=SIZE, anomalous=True)[1] > 0).mean()
        for name, part in OBJECTS.items()
        for index in range(len(part.KINDS) + 4)
    ]
    low, median, high = np.quantile(areas, [0.1, 0.5, 0.95])
    assert 0.002 < median < 0.01
    assert low < 0.002
    assert high > 0.01
    assert max(areas) < 0.15
    assert min(areas) >= 1.5e-4


@pytest.mark.parametrize("name", OBJECTS)
def test_same_bytes_in_any_order(name: str) -> None:
    def once(index: int, anomalous: bool = False, seed: int = 0) -> bytes:
        return b"".join(a.tobytes() for a in render(name, index, seed=seed, size=SIZE, anomalous=anomalous)[:2])

    forwards = [once(0), once(1), once(0, True)]
    assert forwards == [once(0, True), once(1), once(0)][::-1]
    assert len({*forwards, once(0, seed=1), once(0, True, seed=1)}) == 5


def test_normal_pictures_differ_from_each_other_like_photographs() -> None:
    for name in OBJECTS:
        one, other = (render(name, i, seed=0, size=SIZE, anomalous=False)[0].astype(np.float32) for i in (0, 1))
        assert 2 < np.abs(one - other).mean() < 60
        assert 20 < one.mean() < 235
        assert one.std() > 15


def test_folders_are_equal_to_the_byte_between_processes(root: Path, tmp_path: Path) -> None:
    options = ["--objects", "gear", "biscuit", "--train", "10", "--test-normal", "5", "--anomalies", "10"]
    command = [sys.executable, "-m", "synthetic.parts", "--to", str(tmp_path / "again"), *options, "--size", str(SIZE)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "50 pictures of gear, biscuit" in run.stdout
    assert run.stderr == ""
    assert _files(tmp_path / "again") == _files(root)


def test_second_run_does_nothing_and_other_arguments_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    begun = time.perf_counter()
    assert not write(root, ARGUMENTS)
    assert time.perf_counter() - begun < 0.5
    assert main(["--to", str(root), "--seed", "1"]) == 2
    assert "holds something other than this data set" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for manifest in (None, "[]", "{}", "no json"):
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(SpdError, match="something other"):
            write(tmp_path, ARGUMENTS)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(SpdError, match="something other"):
        write(tmp_path / "notes.txt", ARGUMENTS)


def test_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "parts", ARGUMENTS, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "parts"
    target.mkdir()
    assert write(target, Arguments(objects=("gear",), train=2, test_normal=1, anomalies=3, size=64))
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["arguments"]["size"] == 64
    assert manifest["kinds"]["gear"] == list(OBJECTS["gear"].KINDS)
    assert manifest["pictures"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objects", "teapot"], "teapot.*choose from pcb"),
        (["--anomalies", "2"], "--anomalies 2: must be at least 3"),
        (["--size", "8"], "--size 8: must be at least 64"),
        (["--train", "0"], "--train 0: must be at least 2"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--objects", "gear", "gear"], "names one of them twice"),
    ],
)
def test_bad_arguments_get_a_message(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--to", str(tmp_path / "parts"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "parts").exists()
