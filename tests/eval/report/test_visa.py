"""results/visa: the committed pages say what the committed rows say, and its commands made the rows."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from eval.__main__ import _parser, main
from eval.metrics.compare import MIN_UNITS
from eval.options import settings_of, training_of
from eval.protocols import settings_used
from eval.results import read_results
from spd_weights.files import read_json
from tests.bench import parity

FOLDER = parity.FOLDER
COMMITTED = sorted(path.parent for path in FOLDER.rglob("results.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_tables_are_what_the_rows_give(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "results.json", tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    tables = (folder / "tables.md").read_text(encoding="utf-8")
    assert tables == (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "ms per image" in tables


def commands() -> Iterator[list[str]]:
    """The arguments of each `python -m eval` in the README."""
    (block,) = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    variables = dict(word.split("=", 1) for line in lines if re.match("[A-Z]+=", line) for word in shlex.split(line))
    for line in lines:
        if line.startswith("python -m eval "):
            yield shlex.split(Template(line).substitute(variables))[3:]


def test_commands_made_the_rows() -> None:
    made = set()
    for arguments in commands():
        given = _parser().parse_args(arguments)
        results = read_results(parity.ROOT / given.out)
        settings = {**vars(settings_of(given)), **vars(training_of(given))}
        for row in results["rows"]:
            key = [row[name] for name in ("weights", "category", "protocol", "method")]
            where = [given.weights, given.category, given.protocol, given.method]
            if all(value in values for value, values in zip(key, where, strict=True)):
                assert row["seed"] < given.seeds
                for name in settings_used(row["method"]):
                    assert results["config"][name] == settings[name], (name, key)
                made.add((given.out, *key, row["seed"]))
    assert made == {
        (
            folder.relative_to(parity.ROOT),
            *(row[name] for name in ("weights", "category", "protocol", "method", "seed")),
        )
        for folder in COMMITTED
        for row in read_results(folder)["rows"]
    }


def test_parity_page_is_what_its_rows_and_the_published_numbers_give() -> None:
    measured, reference = read_json(FOLDER / "parity.json"), read_json(parity.REFERENCE)
    page = (FOLDER / "parity.md").read_text(encoding="utf-8")
    assert page == parity.rendered(measured, reference)
    for row in reference["rows"]:
        if row["method"] in ("padim", "patchcore") and row["metric"] in parity.METRICS:
            for category in parity.OBJECTS if "objects" in row else ():
                assert f"{100 * row['objects'][category]:.1f}" in page


def test_parity_rows_have_exactly_the_seeds_of_their_setting() -> None:
    found: dict[tuple[str, ...], list[int]] = {}
    for row in read_json(FOLDER / "parity.json")["rows"]:
        found.setdefault(tuple(row[key] for key in ("setting", "method", "category", "metric")), []).append(row["seed"])
    assert found == {
        (name, method, category, metric): list(range(setting.seeds))
        for name, setting in parity.SETTINGS.items()
        for method in setting.methods
        for category in parity.OBJECTS
        for metric in parity.METRICS
    }


@pytest.mark.parametrize(("sha256", "kept"), [("same", ["square224"]), ("other", [])])
def test_measuring_one_setting_again_replaces_its_rows_only(sha256: str, kept: list[str]) -> None:
    measured = {
        "rows": [{"setting": "square224"}, {"setting": "channels256"}],
        "environments": {},
        "weights_sha256": "same",
    }
    row = {"weights": "W", "weights_sha256": sha256, "category": "fryum", "method": "padim", "metric": "pixel_aupr"}
    rows = [{**row, "seed": seed, "value": 0.5, "environment": "e"} for seed in range(3)]
    new = parity.updated(measured, "channels256", {"rows": rows, "environments": {"e": {}}}, "W")
    assert [row["setting"] for row in new["rows"]] == [*kept, "channels256"]  # one seed: the setting asks for no more
    assert new["rows"][-1]["value"] == 0.5
    assert (new["environments"], new["weights_sha256"]) == ({"e": {}}, sha256)


def test_two_objects_decide_nothing() -> None:
    assert len(parity.OBJECTS) < MIN_UNITS
    pages = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.md")]
    assert not any(re.search(r"[+-][\d.]+ to [+-][\d.]+", page) for page in pages)
    assert not any(mark in page for page in pages for mark in "▲▼")


def test_readme_names_the_machine_and_the_versions() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    measured = [read_results(folder)["environments"] for folder in COMMITTED]
    for where in [
        *read_json(FOLDER / "parity.json")["environments"].values(),
        *(e for m in measured for e in m.values()),
    ]:
        assert where["cpu"] in page
        for package in ("torch", "timm"):
            assert f"{package} {where['packages'][package]}" in page
