"""report.html as Chromium shows it: at a desk, on a phone, in the dark, by keyboard."""

import pytest

from eval.detectors.methods import Settings
from eval.report.html import write_report
from eval.report.tables import MARKS
from eval.results import read_results
from eval.run import Request, evaluate
from spd_weights.files import write_json
from tests.eval.helpers import mvtec_category, visa_tree
from tests.eval.report.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
WEIGHTS = ["random:test_resnet", "random:test_vit"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844), "small phone": (360, 740)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two weights with long names on VisA and another set, some verdicts decided."""
    root = tmp_path_factory.mktemp("page")
    mvtec_category(root / "data" / "parts" / "an_unusually_long_category_name", masks=False)
    visa_tree(root / "data" / "VisA", ("pcb1", "candle"))
    settings = Settings(image_size=64, padim_dims=8)
    methods = ["padim", "knn"]
    request = Request(WEIGHTS, root / "data", root / "out", methods=methods, seeds=2, settings=settings, workers=0)
    evaluate(request)
    content = read_results(root / "out")
    visa = [r for r in content["rows"] if r["category"] == "pcb1" and r["method"] == "padim"]
    for extra in ("capsules", "cashew", "fryum", "pcb2", "pcb3"):
        content["rows"] += [r | {"category": extra} for r in visa]
    for row in content["rows"]:
        if row["metric"] == "image_aupr" and row["method"] == "padim":
            row["value"] = 0.5 + (0.1 if row["weights"] == WEIGHTS[1] else 0) + 0.01 * row["seed"]
    write_json(root / "out" / "results.json", content)
    return write_report(root / "out")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page_fits_asks_for_nothing_and_says_nothing(browser, page, size, dark):
    browser.open(page, *SIZES[size], dark=dark)
    assert browser.requests == []
    assert browser.errors == []
    assert browser.value("document.documentElement.scrollWidth") <= SIZES[size][0]
    broken = "[...document.images].filter(i => (i.loading = 'eager', i.complete) && !i.naturalWidth).length"
    assert browser.value(broken) == 0
    outside = "[...document.querySelectorAll('main > *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.value(f"{outside}.length") == 0
    ground, text = (browser.value(f"getComputedStyle(document.body).{p}") for p in ("backgroundColor", "color"))
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ground, text)]
    assert (brightness[0] < brightness[1]) == dark
    assert abs(brightness[0] - brightness[1]) > 400


def test_curves_are_drawn_and_their_key_shows_how(browser, page):
    browser.open(page, *SIZES["phone"])
    plots = browser.value("[...document.querySelectorAll('.plots img')].map(e => e.alt)")
    assert {f"{kind} curve of {unit}s" for kind in ("ROC", "precision-recall") for unit in ("image", "pixel")} == set(
        plots
    )
    key = "[...document.querySelector('.key').querySelectorAll('span')]"
    assert browser.value(f"{key}.map(e => e.textContent)") == WEIGHTS
    styles = browser.value(f"{key}.map(e => getComputedStyle(e.querySelector('i')).borderTop)")
    assert len(set(styles)) == 2


def test_only_decided_differences_are_marked(browser, page):
    browser.open(page, *SIZES["desktop"])
    marked = browser.value("[...document.querySelectorAll('tfoot .better, tfoot .worse')].map(e => e.textContent)")
    assert MARKS["better"] in marked
    assert browser.value("document.querySelectorAll('.best, tbody td b, tbody td strong').length") == 0
    decided = browser.value("document.querySelectorAll('.narrow td.better, .narrow td.worse').length")
    assert len(marked) <= decided


def test_contents_lead_to_every_table(browser, page):
    browser.open(page, *SIZES["phone"])
    link = "a => document.querySelector(a.getAttribute('href')).textContent === a.textContent"
    assert browser.value(f"[...document.querySelectorAll('nav a')].map({link})") == [True] * 4


def test_keyboard_reaches_tables_and_opens_details(browser, page):
    browser.open(page, *SIZES["phone"])
    reached = set()
    for _ in range(12):
        browser.press("Tab")
        reached.add(browser.value("document.activeElement.className || document.activeElement.tagName"))
    assert {"scroll", "SUMMARY"} <= reached
