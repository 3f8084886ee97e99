"""Our PaDiM and PatchCore on two objects of VisA, beside every number that was published per object.

    python -m tests.bench.parity --weights local-dir:resnet18.tv_in1k_to_layer3 --data visa --runs runs/parity
    python -m tests.bench.parity     # renders again

The first form measures every setting of `SETTINGS`, or those named after `--settings`, each into its own folder of
`--runs`, and replaces their rows in results/visa/parity.json. Run it again to resume. Both forms render parity.md from
parity.json and eval/report/reference/visa.json; tests/eval/report/test_visa.py compares the committed page with that.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.detectors.methods import Settings
from eval.metrics.metrics import TITLES
from eval.results import read_results
from eval.run import Request, evaluate
from spd_weights.files import read_json, write_json, write_text

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "visa"
REFERENCE = ROOT / "eval" / "report" / "reference" / "visa.json"
OBJECTS = ("capsules", "fryum")
METRICS = ("image_auroc", "image_aupr", "pixel_auroc", "pixel_aupr", "pixel_aupr_trapezoid", "pixel_aupro")
_LARGE = 2.0  # points; larger differences need a cause in docs/evaluation.md
_KEPT = ("category", "method", "seed", "metric", "value", "regions", "regions_left_out")


@dataclass(frozen=True)
class Setting:
    """One way to evaluate.

    Attributes:
        text: What the page calls it.
        methods: Methods to measure.
        seeds: Number of repetitions.
        settings: Options of the detectors.
    """

    text: str
    methods: tuple[str, ...]
    seeds: int
    settings: Settings


_BOTH = ("padim", "patchcore")
SETTINGS = {
    "square224": Setting("whole picture, 224 px", _BOTH, 3, Settings(coreset_ratio=0.01)),
    "square256": Setting("whole picture, 256 px", _BOTH, 3, Settings(image_size=256, coreset_ratio=0.01)),
    "crop224": Setting("shorter side 256 px, crop 224 px", _BOTH, 2, Settings(resize="short-crop", coreset_ratio=0.01)),
    "native256": Setting(
        "256 px, scored at the masks' size", ("padim",), 3, Settings(image_size=256, map_size="native")
    ),
    "channels256": Setting("256 px, all 448 channels", ("padim",), 1, Settings(image_size=256, padim_dims=448)),
    "pooled256": Setting(
        "256 px, 1024 numbers per patch",
        ("patchcore",),
        1,
        Settings(image_size=256, coreset_ratio=0.01, patchcore_features="pooled"),
    ),
}
# The setting of ours that is nearest to a source's.
NEAREST = {("im-iad", "padim"): "square256", ("im-iad", "patchcore"): "pooled256",
           ("aupimo", "padim"): "native256", ("aupimo", "patchcore"): "square256"}  # fmt: skip


def main() -> None:
    """Measure and collect if `--data` is given, and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a ResNet-18")
    parser.add_argument("--data", type=Path, help="VisA, with at least capsules and fryum")
    parser.add_argument("--runs", type=Path, default=Path("runs/parity"), help="one folder per setting")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what to measure (all)")
    args = parser.parse_args()
    measured = read_json(FOLDER / "parity.json")
    if args.data:
        for name in args.settings:
            one, where = SETTINGS[name], ([args.weights], args.data, args.runs / name)
            evaluate(Request(*where, ("1cls",), one.methods, OBJECTS, one.seeds, one.settings))
            measured = updated(measured, name, read_results(args.runs / name), args.weights)
            write_json(FOLDER / "parity.json", measured)
    write_text(FOLDER / "parity.md", rendered(measured, read_json(REFERENCE)))


def updated(measured: dict[str, Any], name: str, results: dict[str, Any], weights: str) -> dict[str, Any]:
    """`measured` with the rows of one setting replaced by those in `results`; rows of other weights are dropped."""
    one = SETTINGS[name]
    rows = [row for row in results["rows"] if row["weights"] == weights and row["metric"] in METRICS]
    rows = [row for row in rows if row["category"] in OBJECTS and row["method"] in one.methods]
    rows = [row for row in rows if row["seed"] < one.seeds]  # a folder can hold more than this setting asks for
    same = measured["weights_sha256"] == rows[0]["weights_sha256"]
    kept = [row for row in measured["rows"] if same and row["setting"] != name]
    new = [{"setting": name, **{key: row[key] for key in _KEPT if key in row}} for row in rows]
    environments = {row["environment"]: results["environments"][row["environment"]] for row in rows}
    return {
        "weights": weights,
        "environments": measured["environments"] | environments,
        "rows": sorted(kept + new, key=lambda row: list(SETTINGS).index(row["setting"])),
        "weights_sha256": rows[0]["weights_sha256"],
    }


def rendered(measured: dict[str, Any], reference: dict[str, Any]) -> str:
    """The page: one table per method and object, then all differences over two points."""
    parts = [
        "# VisA, capsules and fryum: ours beside published numbers\n\n"
        "Rendered by `python -m tests.bench.parity` from `parity.json` and `eval/report/reference/visa.json`. Values "
        "are in percent; ± is the standard deviation over seeds, and a value without it is one seed. Ours are a "
        "ResNet-18 on photographs of 642 × 428 px, PatchCore with a coreset of 1 %. "
        "[Costs and accuracy](../../docs/evaluation.md#against-published-numbers) explains the differences.\n"
    ]
    for method, title in (("padim", "PaDiM"), ("patchcore", "PatchCore")):
        for category in OBJECTS:
            lines = [*_published_lines(reference, method, category), *_our_lines(measured, method, category)]
            header = ["", *(TITLES[metric] for metric in METRICS)]
            parts.append(_markdown(f"## {title}, {category}", header, lines))
    header = ["method", "object", "metric", "published", "ours", "difference", "nearest setting of ours"]
    parts.append(_markdown("## Differences over two points", header, list(_differences(measured, reference))))
    parts += [f"**{key}**: {source['title']}. {source['note']}\n" for key, source in reference["sources"].items()]
    return "\n".join(parts)


def _published(reference: dict[str, Any], method: str, category: str) -> dict[tuple[str, str], dict[str, float]]:
    """Values in percent by (source, backbone) and metric."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in reference["rows"]:
        if row["method"] == method and category in row.get("objects", {}):
            found.setdefault((row["source"], row["backbone"]), {})[row["metric"]] = 100 * row["objects"][category]
    return found


def _published_lines(reference: dict[str, Any], method: str, category: str) -> Iterator[list[str]]:
    for (source, backbone), values in _published(reference, method, category).items():
        cells = [f"{values[metric]:.1f}" if metric in values else "–" for metric in METRICS]
        yield [f"{source}: {backbone}", *cells]


def _our_lines(measured: dict[str, Any], method: str, category: str) -> Iterator[list[str]]:
    for name, one in SETTINGS.items():
        found = [_values(measured, name, method, category, metric) for metric in METRICS]
        if all(found):
            label = f"**ours**: {one.text}{_left_out(measured, name, category)}"
            yield [label, *map(_shown, found)]


def _values(measured: dict[str, Any], setting: str, method: str, category: str, metric: str) -> list[float]:
    wanted = {"setting": setting, "method": method, "category": category, "metric": metric}
    return [100 * row["value"] for row in measured["rows"] if wanted.items() <= row.items()]


def _shown(values: Sequence[float]) -> str:
    spread = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _left_out(measured: dict[str, Any], setting: str, category: str) -> str:
    rows = [row for row in measured["rows"] if row["setting"] == setting and row["category"] == category]
    counted = next(row for row in rows if "regions" in row)
    return f" ({counted['regions_left_out']} of {counted['regions']} regions vanish)"


def _differences(measured: dict[str, Any], reference: dict[str, Any]) -> Iterator[list[str]]:
    """Every published value that differs from ours in the nearest setting by more than two points."""
    for (source, method), setting in NEAREST.items():
        for category in OBJECTS:
            for (of, backbone), values in _published(reference, method, category).items():
                for metric, value in values.items() if of == source else ():
                    ours = _values(measured, setting, method, category, metric)
                    if ours and abs(statistics.fmean(ours) - value) > _LARGE:
                        yield [
                            method, category, TITLES[metric], f"{value:.1f} ({source}, {backbone})", _shown(ours),
                            f"{statistics.fmean(ours) - value:+.1f}", SETTINGS[setting].text,
                        ]  # fmt: skip


def _markdown(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    align = ["---", *["---:"] * (len(header) - 1)]
    return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in (header, align, *lines))


if __name__ == "__main__":
    main()
