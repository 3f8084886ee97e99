"""Pages under results/ that examples render: what they say, and that committed ones are what committed files give."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from examples import adapt_page, paired_page
from examples.results_folder import keep_results, keep_rows
from spd_weights.files import read_json, write_json, write_text
from tests.bench import imagenet_hours, own_parts, scales, thresholds
from tests.eval.rows import row, write_results

RESULTS = Path(__file__).parents[1] / "results"
START = "mobilenetv2_100.imagenet1k"
PAGES = {"features.json": adapt_page.page, "*_seed0/metrics.jsonl": paired_page.page}


def test_committed_pages_are_what_committed_files_give():
    for page in (path for path in RESULTS.glob("*/tables.md") if path.parent.name != "visa"):
        (render,) = (render for source, render in PAGES.items() if list(page.parent.glob(source)))
        assert page.read_text(encoding="utf-8") == render(page.parent)
        results = read_json(page.parent / "results.json")
        if "differences" in results:
            assert results["differences"] == adapt_page.all_differences(results)


@pytest.mark.parametrize("bench", [imagenet_hours, own_parts, scales, thresholds])
def test_committed_benchmarks_are_what_their_rows_give(bench: ModuleType):
    folder = RESULTS / bench.__name__.rpartition(".")[2]
    assert (folder / "README.md").read_text(encoding="utf-8") == bench.render(read_json(folder / "rows.json"))


def adapt_rows():
    values = {START: 0.5, "mobilenetv2_100_rescaled": 0.52, "mobilenetv2_100_adapt_seed0": 0.6,
              "mobilenetv2_100_adapt_seed1": 0.58, "mobilenetv2_100_spd.adapt_x": 0.59}  # fmt: skip
    for name, value in values.items():
        for category, (more, metrics) in {
            "capsules": (0.1, ("image_auroc", "pixel_aupr", "pixel_f1max")),
            "alien": (0.3, ("image_auroc",)),
        }.items():
            for method in ("padim", "patchcore"):
                changes = {"method": method, "milliseconds_per_image": 10.0 if method == "padim" else 30.0}
                yield from (row(name, category, value + more, metric=metric, **changes) for metric in metrics)


def test_adapt_page_has_the_four_rows_and_both_differences(tmp_path: Path):
    write_results(tmp_path, list(adapt_rows()))
    stages = [{"stage": "blocks.1", "rms": 2.0, "cosine": 0.99}]
    write_json(tmp_path / "features.json", {"rows": [{"weights": START, "stages": stages}]})
    write_json(tmp_path / "probe.json", {"rows": [{"weights": START, "top1": 0.84}]})
    page = adapt_page.page(tmp_path)
    everywhere, *_ = page.split("### ")
    assert f"| `{START}` | 70.0 | 60.0 | 70.0 | 60.0 |" in everywhere
    assert "| `mobilenetv2_100_adapt`, 2 seeds | 79.0 ±1.4 |" in everywhere
    assert f"| `mobilenetv2_100_adapt` − `{START}` | +9.0 ±1.4 |" in everywhere
    assert "| `mobilenetv2_100_adapt` − `mobilenetv2_100_rescaled` | +7.0 ±1.4 |" in everywhere
    assert "| `mobilenetv2_100_spd.adapt_x` − `mobilenetv2_100_rescaled` | +7.0 |" in everywhere
    assert "| set/alien | +7.0 ±1.4 | – | +7.0 ±1.4 | – |" in page
    assert "| **mean** | +7.0 ±1.4 | +7.0 ±1.4 | +7.0 ±1.4 | +7.0 ±1.4 |" in page
    assert f"| `{START}` | 10.0 | 30.0 | 84.0 | 2, 0.9900 |" in page
    assert "| `mobilenetv2_100_rescaled` | 10.0 | 30.0 | – |" in page


def test_differences_for_the_card_are_those_of_the_page():
    found = adapt_page.all_differences({"rows": list(adapt_rows()), "config": {}})
    pairs = [(entry["weights"], entry["baseline"]) for entry in found if entry["metric"] == "pixel_aupr"]
    assert pairs == [("mobilenetv2_100_rescaled", START)] * 2 + [
        (weights, baseline)
        for weights in ("mobilenetv2_100_adapt", "mobilenetv2_100_spd.adapt_x")
        for baseline in (START, "mobilenetv2_100_rescaled")
        for _ in ("padim", "patchcore")
    ]
    recipe = next(e for e in found if (e["weights"], e["baseline"]) == ("mobilenetv2_100_adapt", START))
    assert recipe["difference"] == pytest.approx(0.09)
    assert recipe["spread"] == pytest.approx(0.02 / 2**0.5)
    assert (recipe["value"], recipe["baseline_value"]) == (pytest.approx(0.79), pytest.approx(0.7))
    assert (recipe["low"], recipe["high"], recipe["units"]) == (None, None, 2)


def test_two_starts_have_a_section_each(tmp_path: Path):
    other = [{**r, "weights": r["weights"].replace("mobilenetv2_100", "resnet18")} for r in adapt_rows()]
    write_results(tmp_path, [*adapt_rows(), *other])
    page = adapt_page.page(tmp_path)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [f"## {START}", "## resnet18.imagenet1k"]


def test_paired_page_compares_with_eta_0_and_with_the_start(tmp_path: Path):
    values = {START: 0.7, "moco_eta0_seed0": 0.6, "moco_eta0_seed1": 0.62, "moco_seed0": 0.64, "moco_seed1": 0.68}
    write_results(tmp_path, [row(name, "tile", value) for name, value in values.items()])
    for name in list(values)[1:]:
        lines = [{"step": step, "spd_accuracy": None if "eta0" in name else step / 100, "loss_base": 9.0 - step / 10}
                 for step in (10, 20, 30, 40, 50, 60)]  # fmt: skip
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "training.json", {"spd_weight": 0.0 if "eta0" in name else 0.1, "steps": 60})
        write_text(tmp_path / name / "metrics.jsonl", "".join(f"{line}\n" for line in map(json.dumps, lines)))
    page = paired_page.page(tmp_path)
    assert "| `moco` − `moco_eta0` | +5.0 ±1.4 |" in page
    assert f"| `{START}` | 70.0 |" in page
    assert f"| `moco` − `{START}` | -4.0 ±2.8 |" in page
    assert "| `moco_eta0_seed1` | 0 | 60 | – | – | 7.500 | 3.500 |" in page
    assert "| `moco_seed0` | 0.1 | 60 | 0.150 | 0.550 | 7.500 | 3.500 |" in page


def test_what_is_kept_has_no_paths_of_this_machine(tmp_path: Path):
    rows = [row("/somewhere/runs/a_seed0", "tile", 0.5, metric=metric) for metric in ("image_auroc", "pixel_f1max")]
    for each in rows:
        each["weights_sha256"] = "0" * 64
    write_results(tmp_path / "eval", rows, data="/somewhere/industrial", weights={"/somewhere/runs/a_seed0": {}})
    keep_results(tmp_path / "eval", tmp_path / "kept", ["a*"])
    keep_rows({"rows": [{"weights": "local-dir:/somewhere/start", "top1": 0.5}]}, tmp_path / "kept" / "probe.json")
    for path in (tmp_path / "kept").iterdir():
        assert "somewhere" not in path.read_text(encoding="utf-8")
    kept = read_json(tmp_path / "kept" / "results.json")
    assert kept["config"]["groups"] == ["a*"]
    assert [(r["weights"], r["metric"]) for r in kept["rows"]] == [("a_seed0", "image_auroc")]
