"""The page, the printed tables and the tables to paste show what results.json says, and only that."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval.detectors.methods import Settings
from eval.report.html import write_report
from eval.report.tables import tables
from eval.report.terminal import print_tables
from eval.results import read_results
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json
from tests.eval.helpers import DEFECT, SIZE, mvtec_category, tiny_export
from tests.eval.rows import row

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
    """What a browser would fetch or run, and what a screen reader would read."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.text, self.tags, self.attributes = [], [], "", set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
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
    assert all(re.match(r"data:image/(jpeg|svg\+xml);base64,", link) for link in page.links)
    assert not re.search(r"url\(|@import|<script|https?://(?!\S*</)", text)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    figures = [image for image in page.images if "jpeg" in image["src"]]
    assert len(figures) == 2 * 2 * 3 * 2  # categories, weights, ranks, photograph and heat map
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
            assert metric not in table.columns or str(value) in page
            assert metric not in table.columns or str(value) in printed
    assert "the category has no masks" in page
    assert "the category has no masks" in printed


def test_markdown_and_latex_hold_every_value(measured):
    write_report(measured)
    markdown, latex = ((measured / f"tables.{kind}").read_text() for kind in ("md", "tex"))
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| tile")]
    typeset = [line.rstrip("\\ ").split(" & ") for line in latex.splitlines() if line.startswith("tile")]
    (table,) = tables(read_results(measured)["rows"])
    for found, sign in ((rows, "±"), (typeset, r"$\pm$")):
        assert [len(line) for line in found] == [2 + len(table.columns)] * 2
        for line, weights in zip(found, table.weights, strict=True):
            expected = [str(table.values["tile", weights, metric]).replace("±", sign) for metric in table.columns]
            assert line[2:] == expected
    assert r"random:test\_resnet" in latex
    assert "random:test_resnet" not in latex
    assert "the category has no masks" in markdown
    assert "the category has no masks" in latex


def test_narrow_terminals_get_more_tables_not_cut_numbers(measured):
    for width in (60, 80, 200):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        print_tables(read_results(measured)["rows"], console)
        assert "…" not in console.export_text()


def test_many_weights_get_more_tables_not_cut_numbers():
    rows = [row(f"weights{i}", "tile", (10 + i) / 100) for i in range(15)]
    console = Console(width=80, record=True, file=io.StringIO())
    print_tables(rows, console)
    printed = console.export_text()
    assert "…" not in printed
    for i in range(15):
        assert printed.count(f"{10 + i}.0") == 2  # the category and the mean


def test_results_that_cannot_be_read(tmp_path, measured):
    with pytest.raises(SpdError, match=r"results\.json"):
        write_report(tmp_path)
    write_json(tmp_path / "results.json", {"schema": 99, "rows": []})
    with pytest.raises(SpdError, match="schema 1"):
        write_report(tmp_path)
    assert read_json(measured / "results.json")["schema"] == 1


HOSTILE = """<script>alert(1)<!-- "'><img src=x onerror=alert(1)> &amp; {{ 7*7 }} $x_1$ \\input{x} [b] | `c`"""


def test_names_are_shown_and_never_interpreted(tmp_path):
    category = HOSTILE.replace("/", "")
    mvtec_category(tmp_path / "data" / category)
    mvtec_category(tmp_path / "data" / ("long" * 60))
    weights = [str(tiny_export(tmp_path / f"{category}{i}")) for i in range(2)]
    settings = Settings(image_size=32, padim_dims=4)
    evaluate(Request(weights, tmp_path / "data", tmp_path / "out", settings=settings, workers=0))
    page = Page(write_report(tmp_path / "out").read_text())
    assert page.text.count(category) >= 6
    assert "long" * 60 in page.text
    assert "script" not in page.tags
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "49" not in re.sub(r"[\d.]{3,}", "", page.text)
    markdown, latex = ((tmp_path / "out" / f"tables.{kind}").read_text() for kind in ("md", "tex"))
    assert "<" not in markdown
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| ")} == {12, 7}
    assert r"\input" not in latex
    assert r"\$x\_1\$" in latex
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(read_results(tmp_path / "out")["rows"], console)
    assert console.export_text().count(category) >= 3  # a row, and two names of weights
