"""Render tables.md of a folder that `python -m examples.paired_table` filled, from the files beside it.

python -m examples.paired_page results/continued
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.metrics.means import distinct
from eval.report.summary import summary
from eval.results import read_results
from examples.results_folder import markdown_table, write_page
from spd_weights.files import read_json

_HEAD = """# Each method without and with SPD

Means over categories in percent; ± is the standard deviation over seeds of the trainings and of the detectors.
`_eta0` is the method without SPD, `_eta1` has η = 1, and no suffix stands for η = 0.1, the paper's. SPD accuracy is the
share of images whose negative is further from the anchor than their positive; 0.5 is chance.
"""


def page(folder: Path) -> str:
    """Render tables.md.

    Args:
        folder: Holds results.json, and training.json and metrics.jsonl of each run.
    """
    results = read_results(folder)
    rows, groups = results["rows"], results["config"].get("groups", [])
    names = distinct(row["weights"] for row in rows)
    trained = distinct(name.rpartition("_seed")[0] for name in names if "_seed" in name)
    methods = [
        [name for name in trained if name.split("_")[0] == method]
        for method in distinct(name.split("_")[0] for name in trained)
    ]
    starts = [name for name in names if "_seed" not in name]
    parts = [_HEAD, "## Without and with SPD", summary(rows, [*methods, *([name] for name in starts)], groups=groups)]
    for start in starts:
        table = summary(rows, [[start, *trained]], groups=groups).splitlines()
        parts += [f"## Against `{start}`", "\n".join(table[:2] + table[-len(trained) :])]
    parts += ["## Was SPD learned?", _learned(folder, trained)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _learned(folder: Path, trained: Sequence[str]) -> str:
    """One line per run: its length, its SPD accuracy and its base loss, at the start and at the end."""
    lines = [["run", "η", "steps", "SPD accuracy, first third", "last third", "base loss, first third", "last third"]]
    runs = [path for name in trained for path in sorted(folder.glob(f"{name}_seed[0-9]*"))]
    for run in runs:
        record = read_json(run / "training.json")
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        accuracy, loss = (_thirds(logged, key, record["steps"]) for key in ("spd_accuracy", "loss_base"))
        lines.append([f"`{run.name}`", f"{record['spd_weight']:g}", str(record["steps"]), *accuracy, *loss])
    return markdown_table(lines)


def _thirds(logged: Sequence[dict[str, Any]], key: str, steps: int) -> list[str]:
    """The mean of a logged quantity over the first and the last third of the steps."""
    thirds: list[list[float]] = [[], []]
    for line in logged:
        if line.get(key) is not None and not steps / 3 < line["step"] <= 2 * steps / 3:
            thirds[line["step"] > steps / 3].append(line[key])
    return [f"{fmean(third):.3f}" if third else "–" for third in thirds]


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1]), page))
