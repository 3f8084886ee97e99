"""Published numbers are consistent, and are shown only beside results that they can be compared with."""

import json
from pathlib import Path

import pytest

import eval.report
from eval.data.layouts import VISA_OBJECTS
from eval.metrics.metrics import TITLES
from eval.report.html import write_report
from eval.report.published import published
from eval.report.tables import tables
from tests.eval.rows import row, write_results

REFERENCE = json.loads((Path(eval.report.__file__).parent / "reference" / "visa.json").read_text(encoding="utf-8"))
OFFICIAL = {f"visa/{name} 1cls": "official" for name in ("capsules", "fryum")}


@pytest.fixture
def rows():
    values = {"capsules": 0.033, "fryum": 0.399}
    changes = {"dataset": "visa", "metric": "pixel_aupr_trapezoid"}
    return [row("resnet18", category, value, **changes) for category, value in values.items()]


def test_published_means_are_those_of_the_published_objects():
    for entry in REFERENCE["rows"]:
        assert entry["metric"] in TITLES
        assert REFERENCE["sources"][entry["source"]].keys() == {"title", "note"}
        if "objects" in entry:
            assert set(entry["objects"]) <= set(VISA_OBJECTS)
            if len(entry["objects"]) == 12:
                assert sum(entry["objects"].values()) / 12 == pytest.approx(entry["base"], abs=0.0006)


def test_numbers_per_object_and_their_source(rows):
    (found,) = published(tables(rows)[0], OFFICIAL)
    per_object = found.objects["pixel_aupr_trapezoid"]["aupimo", "ResNet-18, ImageNet labels"]
    assert (per_object["fryum"], per_object["capsules"]) == pytest.approx((38.5, 4.0))
    assert found.means["zou-2022", "ResNet-50, SimSiam + SPD"] == {"image_aupr_trapezoid": pytest.approx(82.8)}
    assert "arXiv 2207.14315" in found.sources["zou-2022"]["title"]


@pytest.mark.parametrize(
    ("changes", "splits"),
    [
        ({"dataset": "mine"}, {"mine/capsules 1cls": "official", "mine/fryum 1cls": "official"}),
        ({"method": "knn"}, OFFICIAL),
        ({}, OFFICIAL | {"visa/fryum 1cls": "own"}),
        ({}, {}),
    ],
)
def test_nothing_stands_beside_other_data_methods_or_splits(rows, changes, splits):
    assert published(tables([entry | changes for entry in rows])[0], splits) == []


def test_page_shows_them_per_object_beside_ours(tmp_path, rows):
    write_results(tmp_path, rows, split=OFFICIAL)
    page = write_report(tmp_path).read_text()
    assert "arXiv 2207.14315" in page
    for value in ("38.5", "39.9", "35.1", "82.8"):
        assert f">{value}<" in page
    write_results(tmp_path, rows)
    assert "Beside published numbers" not in write_report(tmp_path).read_text()
