"""Files that tools outside of this repository read: they must name what exists here."""

import re
from pathlib import Path

import yaml

import spd_weights

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def commands(workflow: Path) -> list[str]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    targets = [job.get("strategy", {}).get("matrix", {}).get("target", [""]) for job in jobs]
    return [
        step["run"].replace("${{ matrix.target }}", target)
        for job, names in zip(jobs, targets, strict=True)
        for target in names
        for step in job["steps"]
        if "run" in step
    ]


def test_continuous_integration_calls_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    local = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    called = {re.match(r"make ([a-z-]+)", run)[1] for path in WORKFLOWS for run in commands(path) if run[:4] == "make"}
    assert called <= targets
    assert set(local) <= called  # what guards main here also runs there
    assert {"lint", "test", "test-slow", "rehearsal", "docs", "oldest"} <= called


def test_matrix_covers_the_supported_versions_of_python() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    supported = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    matrix = ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix[0] == supported
    assert ci["jobs"]["oldest"]["steps"][1]["with"]["python-version"] == supported


def test_weekly_job_removes_every_upper_bound() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8")
    pattern, replacement = re.search(r"sed -i -E 's/(.*?)/(.*?)/'", workflow).groups()
    assert re.search(r",<\d", text)
    assert not re.search(r",<\d", re.sub(pattern, replacement, text))


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == spd_weights.__version__
    assert citation["license"] == "Apache-2.0"
