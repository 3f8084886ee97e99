"""What adapting to one's own parts changes: image AUROC and pixel AP with plain, adapted and guarded features.

    python -m tests.bench.own_parts --data ../shared/data --out results/own_parts [--category tile …]

For each category, numbers of good parts and weights, a detector is fitted on plain and on adapted features and measured
on real defects. "Guarded" is what `fit --adapt` would keep. Measurements are added to rows.json one by one, and those
that it already has are not repeated; README.md is rendered from it. Without --data, only README.md is rendered.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.backbone.features import Extractor
from eval.data.datasets import Sample, load_categories
from eval.data.masks import read_masks
from eval.detectors.adapted import Adapted
from eval.detectors.base import Detector
from eval.detectors.methods import Settings, build_detectors
from eval.detectors.one_class import extractor_for
from eval.inspection.adapt import decide, learn_maps
from eval.inspection.features import FeatureStore, extract
from eval.inspection.threshold import fit_on
from eval.metrics.metrics import image_metrics, pixel_metrics
from spd_weights.environment import environment
from spd_weights.files import write_json, write_text

CATEGORIES = {
    "tile": "industrial/magnetic_tile",
    "pcb_13000": "industrial/deeppcb",
    "capsules": "visa",
    "pcb_00041": "industrial/deeppcb",
    "pcb_20085": "industrial/deeppcb",
    "alien": "industrial/aws_aliens",
    "cookie": "industrial/aws_cookies",
    "fryum": "visa",
}
CHOICE = ("tile", "pcb_13000", "capsules")  # the recipe's constants were chosen on these
COUNTS = (10, 30, 100, 200)
SIZE, TEST_GOOD, TEST_BAD, BANK = 160, 60, 80, 4000
METRICS = ("image_auroc", "pixel_aupr")


def main() -> None:
    """Measure what is missing, and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/own_parts"))
    parser.add_argument("--weights", nargs="+", default=["mobilenetv2_100_spd"])
    parser.add_argument("--method", nargs="+", default=["patchcore"])
    parser.add_argument("--category", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--images", nargs="+", type=int, default=list(COUNTS))
    given = parser.parse_args()
    file = given.out / "rows.json"
    content = json.loads(file.read_text()) if file.exists() else {"environment": environment(), "rows": []}
    if given.data:
        for weights in given.weights:
            for method in given.method:
                for category in given.category:
                    for row in measure(content["rows"], given.data, weights, method, category, given.images):
                        content["rows"].append(row)
                        content["rows"].sort(key=_key)
                        write_json(file, content)
                        print(json.dumps(row), flush=True)
    write_text(given.out / "README.md", render(content))


def measure(
    known: list[dict[str, Any]], data: Path, weights: str, method: str, category: str, counts: list[int]
) -> Iterator[dict[str, Any]]:
    """The missing rows of one category."""
    found, name = (
        load_categories(data / CATEGORIES[category], "1cls", [category])[0],
        weights.rstrip("/").split("/")[-1],
    )
    rng = np.random.default_rng(0)
    train = [found.train[index].image for index in rng.permutation(len(found.train))[: max(counts)]]
    wanted = sorted({min(count, len(train)) for count in counts})
    done = [(row["weights"], row["method"], row["category"], row["images"]) for row in known]
    wanted = [count for count in wanted if (name, method, category, count) not in done]
    if not wanted:
        return
    test = _some([s for s in found.test if not s.anomalous], TEST_GOOD, rng)
    test += _some([s for s in found.test if s.anomalous], TEST_BAD, rng)
    extractor = extractor_for(weights, [method], Settings(image_size=SIZE))
    good, seen = (
        extract(extractor, files, "square", 0, lambda *_: None)[0] for files in (train, [s.image for s in test])
    )
    for count in wanted:
        yield {"weights": name, "method": method, "category": category, "images": count} | one(
            extractor, train[:count], good, seen, test, method
        )


def one(
    extractor: Extractor, files: list[Path], good: FeatureStore, seen: FeatureStore, test: list[Sample], method: str
) -> dict[str, Any]:
    """Measure plain and adapted features of one number of good parts."""
    count = len(files)
    ratio = min(0.1, BANK / (count * good.positions))
    seeds = range(1 if method == "padim" or count > 100 else 2 if count > 30 else 4)

    def build(images: int, seed: int = 0) -> Detector:
        settings = Settings(image_size=SIZE, coreset_ratio=ratio, coreset_start="mean")
        return build_detectors(method, settings, [seed], images)[0]

    started = time.process_time()
    verdict = decide(extractor, files, "square", 0, build, 0)
    seconds = time.process_time() - started
    maps = learn_maps(good, range(count))
    values = {
        "plain": scored(lambda seed: build(count, seed), good, count, seen, test, seeds),
        "adapted": scored(lambda seed: Adapted(build(count, seed), maps), good, count, seen, test, seeds),
    }
    guard = {
        "adapt": verdict.adapt,
        "plain": verdict.plain,
        "adapted": verdict.adapted,
        "cpu_seconds": round(seconds, 1),
    }
    return {"coreset_ratio": ratio, "seeds": len(seeds), "guard": guard, **values}


def scored(
    build: Callable[[int], Detector],
    good: FeatureStore,
    count: int,
    seen: FeatureStore,
    test: list[Sample],
    seeds: range,
) -> dict[str, Any]:
    """Image AUROC of each seed, and pixel AP of the first, in percent."""
    anomalous = np.array([sample.anomalous for sample in test])
    areas, precision = [], None
    for seed in seeds:
        detector = fit_on(build(seed), good, range(count))
        results = [detector(features) for features in seen.batches(range(seen.images))]
        scores = torch.cat([score for score, _ in results]).numpy()
        areas.append(round(100 * image_metrics(scores, anomalous)["image_auroc"].value, 2))
        if seed == 0 and any(sample.mask for sample in test):
            maps = torch.cat([heat for _, heat in results]).numpy()
            precision = round(100 * pixel_metrics(maps, read_masks(test, SIZE))["pixel_aupr"].value, 2)
    return {"image_auroc": areas, "pixel_aupr": precision}


def _some(samples: list[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    return [samples[index] for index in np.sort(rng.permutation(len(samples))[:count])]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["weights"], row["method"], list(CATEGORIES).index(row["category"]), row["images"]


def render(content: dict[str, Any]) -> str:
    """The tables as Markdown."""
    return ""


if __name__ == "__main__":
    main()
