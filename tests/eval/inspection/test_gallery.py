"""The page of all photographs."""

from html.parser import HTMLParser

import pytest
from PIL import Image

from eval.inspection import gallery
from eval.inspection.gallery import write_gallery
from eval.inspection.predict import predict
from tests.eval.inspection.helpers import fitted

ABOUT = {
    "threshold": 2.0, "threshold_note": "1 % expected", "method": "padim", "weights": "w", "n_train": 50,
    "created": "2026-01-01T00:00:00", "map_maximum": 1.0,
}  # fmt: skip


class Page(HTMLParser):
    """Images, and the text of captions and list items, in order."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.texts, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        if self.tags and data.strip():
            self.texts.append(data.strip())


def row(name, score, above=False, error=None, picture=None):
    return {"image": name, "score": score, "above": above, "picture": picture, "error": error, "modified": 0}


def test_most_anomalous_first_and_names_are_no_markup(tmp_path):
    rows = [row("low", 1.0), row("<script>alert(1)</script>.png", 3.0, True), row("odd", None, None, "odd: <b>bad</b>")]
    page = Page(write_gallery(tmp_path, rows, {"detector": ABOUT, "threshold": 2.0}).read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags[page.tags.index("ul") : page.tags.index("div")]
    assert page.texts.index("<script>alert(1)</script>.png") < page.texts.index("low")
    assert "odd: <b>bad</b>" in page.texts
    assert "1 of 2 photographs above the threshold" in page.texts


def test_page_stands_alone(place, tmp_path):
    folder = place / "set" / "tile" / "test" / "spot"
    done = predict(fitted(place, tmp_path), [folder], tmp_path / "out", workers=0)
    page = Page(done.gallery.read_text())
    assert len(page.links) == 4
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)


def test_only_the_highest_scores_have_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "SHOWN", 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
    rows = [row(f"photo {score}", float(score), picture="p.jpg") for score in range(5)]
    page = Page(write_gallery(tmp_path, rows, {"detector": ABOUT, "threshold": 9.0}).read_text())
    assert len(page.links) == 2
    assert any("3 more photographs have lower scores, from 2 down" in text for text in page.texts)
    assert any("the detector's own is 2" in text for text in page.texts)


@pytest.mark.parametrize("threshold", [None, 2.0])
def test_page_without_a_threshold_or_a_picture(tmp_path, threshold):
    rows = [row("photo", 1.0, None, picture="deleted.jpg")]
    text = write_gallery(tmp_path, rows, {"detector": ABOUT, "threshold": threshold}).read_text()
    assert ("no threshold" in text) == (threshold is None)
    assert Page(text).links == []
