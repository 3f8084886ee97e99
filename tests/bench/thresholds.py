"""The false alarms of thresholds on normal photographs that neither detector nor threshold has seen.

    python -m tests.bench.thresholds --data ../shared/data --out results/thresholds [--category tile …]

For each category and number of normal training photographs, the stated rate with its 95 % interval, and the realised
rate on all other normal photographs, separately for those of the training and of the test folder. Small numbers are
drawn several times. README.md is rendered from rows.json. Without --data, only README.md is rendered.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import betabinom

from eval.data.datasets import load_categories
from eval.detectors.base import Detector
from eval.detectors.methods import Settings, build_detectors
from eval.detectors.one_class import extractor_for
from eval.inspection.features import FeatureStore, extract
from eval.inspection.fit import DEFAULT_METHOD, DEFAULT_WEIGHTS
from eval.inspection.threshold import choose_threshold, fit_on, held_out
from spd_weights.catalog import find
from spd_weights.environment import environment
from spd_weights.files import write_json, write_text

from .own_parts import CATEGORIES

DRAWS = {10: 5, 30: 3, 0: 1}  # of photographs, by their number; 0: all of the training folder
SIZE, BANK, RATE = 160, 1000, 0.05

_NOTE = f"""\
`fit --false-alarms {RATE:.0%}` at {SIZE} px with `{{weights}}` and PatchCore (at most {BANK} patches).
*Stated* is the expected rate of false alarms and *interval* its 95 % interval, as `fit` prints them. *Above* counts
the normal photographs above the threshold among those that were not used, summed over the draws. *Within* counts the
draws whose number above the threshold lies in the central 95 % of the distribution that the statement implies
(beta-binomial): first for the rest of the training folder, then for the test folder. Rendered by `python -m
tests.bench.thresholds` from rows.json."""


def main() -> None:
    """Measure the categories, and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/thresholds"))
    parser.add_argument("--category", nargs="+", default=list(CATEGORIES))
    given = parser.parse_args()
    file = given.out / "rows.json"
    content = (
        json.loads(file.read_text())
        if file.exists()
        else {"environment": environment(), "weights": find(DEFAULT_WEIGHTS).name, "rows": []}
    )
    for category in given.category if given.data else []:
        store, trained = normal_features(given.data, category, SIZE, content["weights"])
        rows = [
            {"category": category, "images": min(count or trained, trained), "draw": draw}
            | realised(store, trained, count or trained, draw, SIZE)
            for count, draws in DRAWS.items()
            for draw in range(draws)
            if count < trained
        ]
        content["rows"] = [row for row in content["rows"] if row["category"] != category] + rows
        content["rows"].sort(key=lambda row: (list(CATEGORIES).index(row["category"]), row["images"], row["draw"]))
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
        print("\n".join(_table(rows)), flush=True)
    write_text(given.out / "README.md", render(content))


def normal_features(data: Path, category: str, size: int, weights: str = DEFAULT_WEIGHTS) -> tuple[FeatureStore, int]:
    """The features of all normal photographs, those of the training folder first, and the number of these."""
    (found,) = load_categories(data / CATEGORIES[category], "1cls", [category])
    normal = [s.image for s in (*found.train, *found.test) if not s.anomalous]
    extractor = extractor_for(weights, [DEFAULT_METHOD], Settings(image_size=size))
    return extract(extractor, normal, "square", 0, lambda *_: None)[0], len(found.train)


def realised(store: FeatureStore, trained: int, count: int, draw: int, size: int) -> dict[str, Any]:
    """Fit on some photographs of the training folder, and count the other normal ones above the threshold."""
    chosen = np.sort(np.random.default_rng(draw).permutation(trained)[:count])
    part = FeatureStore(count)
    for features in store.batches(chosen):
        part.append(features)
    settings = Settings(image_size=size)
    limited = replace(settings, coreset_ratio=min(settings.coreset_ratio, BANK / (count * part.positions)))

    def build(indices: Sequence[int]) -> Detector:
        return build_detectors(DEFAULT_METHOD, limited, [draw], len(indices))[0]

    threshold = choose_threshold(held_out(build, part).scores, RATE)
    detector = fit_on(build, part, range(count))
    found = {"rate": threshold.rate, "low": threshold.low, "high": threshold.high}
    places = {"train": np.setdiff1d(np.arange(trained), chosen), "test": np.arange(trained, store.images)}
    for name, others in places.items():
        scores = [detector(features)[0].cpu().numpy() for features in store.batches(others)]
        above = int((np.concatenate([*scores, np.empty(0)]) > threshold.value).sum())
        found[name] = {"above": above, "of": len(others), "plausible": plausible(threshold.rate, count, len(others))}
    return found


def plausible(rate: float, images: int, others: int) -> tuple[int, int]:
    """The central 95 % of the number of others above a threshold that was chosen on some images."""
    rank = round(rate * (images + 1))
    low, high = betabinom.ppf([0.025, 0.975], others, rank, images + 1 - rank)
    return int(low), int(high)


def within(found: dict[str, Any]) -> bool:
    """Whether the number above the threshold is plausible."""
    low, high = found["plausible"]
    return low <= found["above"] <= high


def render(content: dict[str, Any]) -> str:
    """The table as Markdown."""
    counts = [row[place] for row in content["rows"] for place in ("train", "test") if row[place]["of"]]
    total = f"{sum(map(within, counts))} of {len(counts)} counts are within; 95 % would be {0.95 * len(counts):.0f}."
    lines = [*_table(content["rows"]), "", total]
    table = ["<!-- --8<-- [start:table] -->", "", *lines, "", "<!-- --8<-- [end:table] -->"]
    head = ["# False alarms on unseen photographs", "", _NOTE.format(weights=content["weights"]), ""]
    return "\n".join([*head, *table]) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| category | photographs | stated | interval | above, rest of train | within | above, test | within |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for (category, images), group in groupby(rows, key=lambda row: (row["category"], row["images"])):
        draws = list(group)
        first = draws[0]
        cells = [category, images, _percent(first["rate"]), f"{_percent(first['low'])} – {_percent(first['high'])}"]
        for place in ("train", "test"):
            found = [row[place] for row in draws if row[place]["of"]]
            above, of = (sum(one[key] for one in found) for key in ("above", "of"))
            cells += [f"{above} of {of} ({_percent(above / of)})" if of else "–"]
            cells += [f"{sum(map(within, found))} of {len(found)}" if of else "–"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
