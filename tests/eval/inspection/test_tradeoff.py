"""False alarms against missed defects."""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.__main__ import main
from eval.data.images import read_mask
from eval.inspection.inspector import Inspector
from eval.inspection.measure import masks_of
from eval.inspection.photographs import decode, find_photographs
from eval.inspection.tradeoff import TradeOff, write_trade_off
from spd_weights.errors import SpdError
from tests.eval.helpers import mask, save

NORMAL, DEFECTIVE = np.float32([1, 2, 3, 4]), np.float32([2.5, 3.5, 4.5, 9])


def test_counts_at_a_threshold_are_those_of_predict():
    """`predict` flags a score above the threshold, not one equal to it."""
    point = TradeOff(NORMAL, DEFECTIVE).at(2.5)
    assert (point.false_alarms, point.missed) == (2, 1)
    assert (TradeOff(NORMAL, DEFECTIVE).at(4).false_alarms, TradeOff(NORMAL, DEFECTIVE).at(4).missed) == (0, 2)


def test_curve_has_every_pair_and_the_table_starts_without_false_alarms(tmp_path):
    found = TradeOff(NORMAL, DEFECTIVE)
    assert [(p.false_alarms, p.missed) for p in found.curve()] == [(3, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
    assert (found.table()[0].threshold, found.table()[0].false_alarms) == (4, 0)
    table, plot = write_trade_off(tmp_path / "part.safetensors", found, 4.0)
    with open(table, newline="") as file:
        assert [row["missed"] for row in csv.DictReader(file)] == ["0", "0", "1", "1", "2", "2"]
    assert "false alarms (% of good parts)" in plot.read_text()
    rng = np.random.default_rng(0)
    many = TradeOff(rng.normal(size=300), rng.normal(1, 1, size=80))
    assert [round(100 * p.false_alarms / 300) for p in many.table()] == [0, 1, 2, 5, 10, 20]
    labels = np.repeat([0, 1], [300, 80])
    assert many.auroc == pytest.approx(roc_auc_score(labels, np.concatenate([many.normal, many.defective])))


def test_fit_prints_and_writes_it_and_measures_maps_on_masks(place, tmp_path, capsys):
    tile, file = place / "set" / "tile", tmp_path / "part.safetensors"
    command = ["fit", "--normal", str(tile / "train"), "--weights", str(place / "run"), "--image-size", "64"]
    command += ["--padim-dims", "8", "--method", "padim", "--workers", "0", "--save", str(file)]
    defects = ["--defects", str(tile / "test" / "spot"), "--masks", str(tile / "ground_truth")]
    assert main([*command, *defects]) == 0
    printed = capsys.readouterr().out
    assert "in 100.0 % of pairs" in printed
    assert (tmp_path / "part-tradeoff.csv").is_file()
    assert (tmp_path / "part-tradeoff.svg").is_file()
    inspector, files = Inspector(file), find_photographs([tile / "test" / "spot"])
    truth, values = [], []
    for batch in decode(files, 64, "square", 0, 8):
        _, maps = inspector._detector(inspector._extractor(batch.images))
        for name, heat in zip(batch.files, maps, strict=True):
            truth.append(read_mask(tile / "ground_truth" / "spot" / f"{name.stem}_mask.png", 64))
            values.append(heat.numpy())
    expected = average_precision_score(np.ravel(truth), np.ravel(values))
    assert f"pixel AP on the photographs with a mask: {100 * expected:.1f} %" in printed


def test_masks_are_found_by_name_and_folder(tmp_path):
    plain = Image.new("RGB", (50, 30))
    files = [save(plain, tmp_path / "bad" / kind / "000.png") for kind in ("cut", "dent")]
    for kind in ("cut", "dent"):
        save(mask(), tmp_path / "masks" / kind / "000_mask.png")
    assert {f.parent.name: m.parent.name for f, m in masks_of(files, tmp_path / "masks").items()} == {
        "cut": "cut",
        "dent": "dent",
    }
    elsewhere = save(plain, tmp_path / "other" / "000.png")
    with pytest.raises(SpdError, match="several masks called 000"):
        masks_of([elsewhere], tmp_path / "masks")
    with pytest.raises(SpdError, match="no mask of these photographs"):
        masks_of([save(plain, tmp_path / "x.png")], tmp_path / "masks")
    save(Image.new("L", (30, 50), 255), tmp_path / "turned" / "x.png")
    with pytest.raises(SpdError, match="not the size of"):
        masks_of([tmp_path / "x.png"], tmp_path / "turned")
