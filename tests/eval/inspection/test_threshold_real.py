"""The stated rate of false alarms on real photographs; results/thresholds has the same at full size."""

import json

import pytest

from tests.bench.own_parts import CATEGORIES
from tests.bench.thresholds import normal_features, plausible, realised, within
from tests.eval.helpers import ROOT, SHARED

FOLDER = ROOT / "results" / "thresholds"


def rows():
    return json.loads((FOLDER / "rows.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("place", ["train", "test"])
def test_measured_rates_of_every_category_are_plausible(place):
    assert {row["category"] for row in rows()} == set(CATEGORIES)
    found = [(row["images"], row["rate"], row[place]) for row in rows() if row[place]["of"]]
    for images, rate, count in found:
        assert tuple(count["plausible"]) == plausible(rate, images, count["of"])
    assert sum(within(count) for *_, count in found) >= 0.9 * len(found)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
@pytest.mark.parametrize("category", CATEGORIES)
def test_rate_on_unseen_photographs_is_within_the_stated_interval(category):
    """At least two of three draws of 25 photographs; each draw has a chance of 95 %."""
    store, trained = normal_features(SHARED, category, 96)
    found = [realised(store, trained, 25, draw, 96)["train"] for draw in range(3)]
    assert sum(map(within, found)) >= 2
