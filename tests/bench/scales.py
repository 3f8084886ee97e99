"""How detectors depend on the scale of a backbone's maps: image AUROC and pixel AP with maps multiplied by factors.

    python -m tests.bench.scales --data ../shared/data --weights W --out results/scales [--category tile …]

The maps of strides 4, 8 and 16 are extracted once per category and multiplied afterwards. PatchCore depends only on the
ratio of the two coarser maps. PaDiM depends on the factors themselves, because it adds 0.01 to the variances.
Measurements are added to rows.json one by one, and those that it already has are not repeated; README.md is rendered
from it. Without --data, only README.md is rendered.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.data.datasets import Sample, load_categories
from eval.data.masks import read_masks
from eval.detectors.base import Detector
from eval.detectors.methods import Settings, build_detectors
from eval.detectors.one_class import extractor_for
from eval.inspection.features import FeatureStore, extract
from eval.metrics.metrics import image_metrics, pixel_metrics
from examples.results_folder import markdown_table
from spd_weights.catalog import find
from spd_weights.environment import environment
from spd_weights.files import write_json, write_text

from .own_parts import CATEGORIES

MASKED = [name for name in CATEGORIES if name != "alien"]
SIZE, TRAIN, TEST_GOOD, TEST_BAD, RATIO = 160, 120, 60, 80, 0.02
FACTORS = {
    "patchcore": [(1, 1, 1), (1, 1, 1 / 2), (1, 1, 1 / 4), (1, 1, 1 / 8)],
    "padim": [(1, 1, 1), (1 / 2, 1 / 2, 1 / 4), (1 / 4, 1 / 4, 1 / 8), (1 / 8, 1 / 8, 1 / 16), (1 / 16, 1 / 16, 1 / 32),
              (1 / 8, 1 / 4, 1 / 8), (1 / 4, 1 / 8, 1 / 16)],
}  # fmt: skip
SEEDS = {"patchcore": 4, "padim": 2}
METRICS = ("image_auroc", "pixel_aupr")


_NOTE = f"""\
Image AUROC / pixel AP in percent, at {SIZE} px, with at most {TRAIN} training, {TEST_GOOD} good and {TEST_BAD}
defective images per category. Means over {SEEDS["patchcore"]} coreset starts of PatchCore and {SEEDS["padim"]} channel
draws of PaDiM. PatchCore keeps {RATIO:.0%} of the patches. The factors are those of strides 4, 8 and 16, on top of the
weights' own scale; PatchCore does not read stride 4. Measured with torch {{torch}} and timm {{timm}}. Rendered by
`python -m tests.bench.scales` from rows.json."""


def main() -> None:
    """Measure what is missing, and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", nargs="+", default=[find("mobilenetv2_100_spd").name])
    parser.add_argument("--category", nargs="+", default=MASKED)
    parser.add_argument("--out", type=Path, default=Path("results/scales"))
    given = parser.parse_args()
    file = given.out / "rows.json"
    content = json.loads(file.read_text()) if file.exists() else {"environment": environment(), "rows": []}
    rows = content["rows"]
    for category in given.category if given.data else []:
        for weights in given.weights:
            for row in measure(rows, given.data / CATEGORIES[category], weights, category):
                rows.append(row)
                given.out.mkdir(parents=True, exist_ok=True)
                write_json(file, content)
                print(json.dumps(row), flush=True)
    write_text(given.out / "README.md", render(content))


def measure(known: list[dict[str, Any]], data: Path, weights: str, category: str) -> Iterator[dict[str, Any]]:
    """The missing rows of one category and one network."""
    name = weights.rstrip("/").split("/")[-1]
    done = [(row["weights"], row["category"], row["method"], tuple(row["factors"])) for row in known]
    wanted = [
        (method, factors)
        for method, of_method in FACTORS.items()
        for factors in of_method
        if (name, category, method, factors) not in done
    ]
    if not wanted:
        return
    found, rng = load_categories(data, "1cls", [category])[0], np.random.default_rng(0)
    train = some(list(found.train), TRAIN, rng)
    test = some([s for s in found.test if not s.anomalous], TEST_GOOD, rng)
    test += some([s for s in found.test if s.anomalous], TEST_BAD, rng)
    extractor = extractor_for(weights, list(FACTORS), Settings(image_size=SIZE))
    normal, seen = (
        extract(extractor, [s.image for s in samples], "square", 0, lambda *_: None)[0] for samples in (train, test)
    )
    for method, factors in wanted:
        settings = Settings(image_size=SIZE, coreset_ratio=RATIO)
        detectors = build_detectors(method, settings, range(SEEDS[method]), len(train))
        for maps in scaled(normal, factors):
            read = extractor.select(maps, detectors[0].reductions)
            for detector in detectors:
                detector.update(read)
        features = [extractor.select(maps, detectors[0].reductions) for maps in scaled(seen, factors)]
        values = [scored(detector, features, test) for detector in detectors]
        yield {"weights": name, "category": category, "method": method, "factors": factors} | {
            metric: [value[metric] for value in values] for metric in values[0]
        }


def scaled(store: FeatureStore, factors: Sequence[float]) -> Iterator[list[Tensor]]:
    """Batches of all maps, multiplied by their factors."""
    for maps in store.batches(range(store.images)):
        yield [m * factor for m, factor in zip(maps, factors, strict=True)]


def scored(detector: Detector, features: list[list[Tensor]], test: list[Sample]) -> dict[str, float]:
    """Image AUROC and pixel AP of a detector that has seen all normal images, in percent."""
    detector.fit()
    scores, maps = (torch.cat(parts).numpy() for parts in zip(*map(detector, features), strict=True))
    anomalous = np.array([sample.anomalous for sample in test])
    values = image_metrics(scores, anomalous) | pixel_metrics(maps, read_masks(test, SIZE))
    return {metric: round(100 * values[metric].value, 2) for metric in METRICS}


def render(content: dict[str, Any]) -> str:
    """The tables as Markdown: a row per triple of factors, image AUROC / pixel AP per category."""
    packages, rows = content["environment"]["packages"], content["rows"]
    lines = ["# Detectors and the scale of maps", "", _NOTE.format(torch=packages["torch"], timm=packages["timm"])]
    for weights, method in dict.fromkeys((row["weights"], row["method"]) for row in rows):
        of_both = [row for row in rows if (row["weights"], row["method"]) == (weights, method)]
        categories = [name for name in MASKED if any(row["category"] == name for row in of_both)]
        table = [["factors", *categories, "mean"]]
        for factors in FACTORS[method]:
            found = {row["category"]: row for row in of_both if tuple(row["factors"]) == factors}
            means = [
                [float(np.mean(found[name][metric])) for metric in METRICS] for name in categories if name in found
            ]
            cells = [" / ".join(f"{value:.1f}" for value in pair) for pair in [*means, np.mean(means, axis=0)]]
            table.append([", ".join(str(Fraction(factor)) for factor in factors), *cells])
        lines += ["", f"## {method}, {weights}", "", markdown_table(table)]
    return "\n".join(lines) + "\n"


def some(samples: list[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    """At most `count` samples, drawn at random."""
    return [samples[index] for index in np.sort(rng.permutation(len(samples))[:count])]


if __name__ == "__main__":
    main()
