"""The printed tables and the page say what results.json says."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval.protocols import Settings
from eval.report.html import write_report
from eval.report.tables import print_tables, short_names, tables
from eval.results import read_results
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json
from tests.eval.helpers import DEFECT, SIZE, mvtec_category, visa_tree

WEIGHTS = ["random:test_resnet", "random:test_vit"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two weights on a category with masks and one without; the data are gone afterwards."""
    root = tmp_path_factory.mktemp("report")
    mvtec_category(root / "data" / "tile")
    mvtec_category(root / "data" / "alien", masks=False)
    settings = Settings(image_size=64, padim_dims=8)
    evaluate(Request(weights=WEIGHTS, data=root / "data", out=root / "out", settings=settings, workers=0, seeds=2))
    (root / "data").rename(root / "gone")
    return root / "out"


def test_figures_outline_the_true_defect(measured):
    (cell,) = (path.parent for path in measured.rglob("tile/*seed0/cell.json") if "resnet" in str(path))
    with Image.open(cell / "best-photo.jpg") as picture:
        red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
        scale = picture.width / SIZE[0]
    ys, xs = np.nonzero((red < 120) & (green > 170) & (blue > 190))
    left, right, top, bottom = (edge * scale for edge in DEFECT)
    assert [xs.min(), xs.max(), ys.min(), ys.max()] == pytest.approx([left, right, top, bottom], abs=8)


class Page(HTMLParser):
    """What a browser would fetch, and what a screen reader would read."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.images.append(values)

    def handle_data(self, data):
        self.text += data


def test_page_stands_alone(measured):
    text = write_report(measured).read_text()
    page = Page(text)
    assert page.images
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"url\(|@import|<script|https?://(?!\S*</)", text)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert len(page.images) == 2 * 2 * 3 * 2  # categories, weights, ranks, photograph and heat map
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert len(text) < 1_000_000


def test_rendering_again_gives_the_same_page(measured):
    first = write_report(measured).read_bytes()
    assert write_report(measured).read_bytes() == first


def test_page_and_terminal_show_every_value(measured):
    results = read_results(measured)
    page = Page(write_report(measured).read_text()).text
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(results["rows"], console)
    printed = console.export_text()
    for table in tables(results["rows"]):
        for (_, _, metric), value in table.values.items():
            assert metric not in table.metrics or str(value) in page
            assert metric not in table.metrics or str(value) in printed
    assert "the category has no masks" in page
    assert "the category has no masks" in printed


def test_markdown_and_latex_hold_every_value(measured):
    write_report(measured)
    markdown, latex = ((measured / f"tables.{kind}").read_text() for kind in ("md", "tex"))
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| tile")]
    typeset = [line.rstrip("\\ ").split(" & ") for line in latex.splitlines() if line.startswith("tile")]
    (table,) = tables(read_results(measured)["rows"])
    for found, sign in ((rows, "±"), (typeset, r"$\pm$")):
        assert [len(row) for row in found] == [2 + len(table.metrics)] * 2
        for row, weights in zip(found, table.weights, strict=True):
            expected = [str(table.values["tile", weights, metric]).replace("±", sign) for metric in table.metrics]
            assert row[2:] == expected
    assert r"random:test\_resnet" in latex
    assert "random:test_resnet" not in latex
    assert "the category has no masks" in markdown
    assert "the category has no masks" in latex


def test_values_are_means_over_seeds_and_common_categories():
    def row(weights, category, metric, seed, value):
        key = {"dataset": "d", "protocol": "1cls", "method": "padim"}
        return {**key, "weights": weights, "category": category, "metric": metric, "seed": seed, "value": value}

    table = tables(
        [
            row("a", "x", "image_auroc", 0, 0.4),
            row("a", "x", "image_auroc", 1, 0.6),
            row("a", "y", "image_auroc", 0, 0.9),
            row("b", "x", "image_auroc", 0, 0.8),
            row("b", "y", "image_auroc", 0, None) | {"reason": "why not"},
        ]
    )[0]
    assert str(table.values["x", "a", "image_auroc"]) == "50.0 ±14.1"
    assert str(table.values["y", "b", "image_auroc"]) == "–"
    assert table.mean("a", "image_auroc").mean == pytest.approx(50)  # y counts for neither, as b lacks it
    assert table.mean("b", "image_auroc").mean == pytest.approx(80)
    assert str(table.mean("a", "image_auroc")) == "50.0 ±14.1"  # over the seeds that all its categories have
    assert table.mean("a", "pixel_auroc").mean is None


def test_narrow_terminals_get_more_tables_not_cut_numbers(measured):
    for width in (60, 80, 200):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        print_tables(read_results(measured)["rows"], console)
        assert "…" not in console.export_text()


def test_published_numbers_stand_beside_visa_only(tmp_path, measured):
    visa_tree(tmp_path / "visa", ("pcb1",))
    settings = Settings(image_size=32, padim_dims=4)
    evaluate(Request(weights=WEIGHTS[:1], data=tmp_path / "visa", out=tmp_path / "out", settings=settings, workers=0))
    page = Page(write_report(tmp_path / "out").read_text()).text
    assert "82.8" in page
    assert "arXiv 2207.14315" in page
    assert "arXiv 2207.14315" not in Page(write_report(measured).read_text()).text


def test_names_stay_distinct():
    assert short_names(["runs/a/export", "runs/b"]) == {"runs/a/export": "a", "runs/b": "b"}
    assert short_names(["x/run", "y/run"]) == {"x/run": "x/run", "y/run": "y/run"}
    assert short_names(["hf-hub:o/n", "local-dir:/w/m"]) == {"hf-hub:o/n": "hf-hub:o/n", "local-dir:/w/m": "m"}


def test_results_that_cannot_be_read(tmp_path, measured):
    with pytest.raises(SpdError, match=r"results\.json"):
        write_report(tmp_path)
    write_json(tmp_path / "results.json", {"schema": 99, "rows": []})
    with pytest.raises(SpdError, match="schema 1"):
        write_report(tmp_path)
    assert read_json(measured / "results.json")["schema"] == 1
