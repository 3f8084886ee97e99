"""The false alarms of thresholds on normal photographs that neither detector nor threshold has seen.

    python -m tests.bench.thresholds DATA [--method patchcore] [--image-size 160] [--images 10 30 100 0]

For each category and number of normal training photographs (0: all): the stated rate with its 95 % interval, and the
realised one on all other normal photographs. Their number above the threshold is then beta-binomial; "plausible" is its
95 % range.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from eval.data.datasets import load_categories
from eval.detectors.methods import DETECTORS, Settings, build_detectors
from eval.detectors.one_class import extractor_for
from eval.inspection.features import FeatureStore, extract
from eval.inspection.fit import BANK, DEFAULT_METHOD, DEFAULT_WEIGHTS
from eval.inspection.threshold import choose_threshold, fit_on, held_out


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--category", nargs="+", default=[])
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--method", choices=list(DETECTORS), default=DEFAULT_METHOD)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 30, 100, 0])
    parser.add_argument("--rate", type=float, default=0.05)
    given = parser.parse_args()
    settings = Settings(image_size=given.image_size)
    extractor = extractor_for(given.weights, [given.method], settings)
    print("| category | photographs | expected | 95 % interval | above, of others | plausible | within |")
    print("| --- | ---: | ---: | --- | ---: | --- | --- |")
    for category in load_categories(given.data, "1cls", given.category):
        normal = [s.image for s in (*category.train, *category.test) if not s.anomalous]
        store, _ = extract(extractor, normal, settings.resize, 1, lambda *_: None)
        trained = len(category.train)
        for count in given.images:
            if count <= trained:
                print(row(category.name, store, count or trained, trained, given, settings), flush=True)


def row(name: str, store: FeatureStore, count: int, trained: int, given: argparse.Namespace, settings: Settings) -> str:
    """One line: fit on `count` of the training photographs, and count the others above the threshold."""
    chosen = np.random.default_rng(0).permutation(trained)[:count]
    part = FeatureStore(count)
    for features in store.batches(chosen):
        part.append(features)
    limited = replace(settings, coreset_ratio=min(settings.coreset_ratio, BANK / (count * part.positions)))

    def build(indices):
        return build_detectors(given.method, limited, [0], len(indices))[0]

    threshold = choose_threshold(held_out(build, part, 0).scores, given.rate)
    detector = fit_on(build, part, range(count))
    others = np.setdiff1d(np.arange(store.images), chosen)
    scores = np.concatenate([detector(features)[0].cpu().numpy() for features in store.batches(others)])
    above, rank = int((scores > threshold.value).sum()), round(threshold.rate * (count + 1))
    low, high = betabinom.ppf([0.025, 0.975], len(others), rank, count + 1 - rank)
    within = "yes" if low <= above <= high else "no"
    return (
        f"| {name} | {count} | {100 * threshold.rate:.1f} % | {100 * threshold.low:.1f}–{100 * threshold.high:.1f} % | "
        f"{above} of {len(others)} ({100 * above / len(others):.1f} %) | {low:.0f}–{high:.0f} | {within} |"
    )


if __name__ == "__main__":
    main()
