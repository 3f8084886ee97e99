"""results.json, and the cells' folders it is put together from: what is there is not measured again."""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spd_weights.environment import environment
from spd_weights.errors import SpdError
from spd_weights.files import read_json, replacing, write_json

from .backbone.features import Extractor
from .data.datasets import Category
from .finetune.two_class import Finetuner
from .metrics.metrics import Metric
from .protocols import Run

SCHEMA = 1
CELL = "cell.json"
_KEY = ("weights", "dataset", "category", "protocol", "method", "seed")  # what names a cell


def read_results(folder: Path) -> dict[str, Any]:
    """Read `folder`/results.json.

    Raises:
        SpdError: It is missing, damaged or of another schema.
    """
    path = folder / "results.json"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SpdError(f"{path}: not the results of this version (schema {SCHEMA}); choose another folder")
    return content


def cell_folder(folder: Path, row: dict[str, Any]) -> Path:
    """Where the figures' data of a row's cell lie: one folder a (weights, category, protocol, method, seed)."""
    weights = str(row["weights"])
    # The checksum keeps names apart that differ only in characters a folder's name cannot have.
    slug = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', weights)[-60:]}-{zlib.crc32(weights.encode()):08x}"
    run = f"{row['protocol']}-{row['method']}-seed{row['seed']}"
    return folder / "cells" / slug / str(row["dataset"]) / str(row["category"]) / run


@dataclass(frozen=True)
class Cell:
    """The unit of the results: weights, data, and one repetition of a method."""

    source: Extractor | Finetuner
    category: Category
    run: Run
    fingerprint: str  # of the category and of what changes the numbers

    @property
    def key(self) -> dict[str, Any]:
        """What names the cell in its rows."""
        where = {"dataset": self.category.dataset, "category": self.category.name}
        return {"weights": self.source.weights, **where, **asdict(self.run)}


class Results:
    """The results in a folder, grown one cell at a time.

    Each process writes the folders of its own cells, whole or not at all. results.json is put together from
    them by one process, in the order in which the cells were asked for.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], training: dict[str, Any], data: Path) -> None:
        """Open the folder's results, or start them.

        Args:
            folder: Where results.json lies or will lie.
            settings: Of the detectors and the metrics; must be those of the results already there.
            training: Of the 2-class methods, if any; must be those of earlier ones, if any.
            data: The data folder as the user named it, for the record.

        Raises:
            SpdError: The folder holds results of other settings, or cannot be used.
        """
        self._folder = folder
        if (folder / "results.json").exists():
            self._content = read_results(folder)
            config = self._content["config"]
            before = {**training, **config}  # where there are no 2-class results yet, these settings are the first
            for name, value in {**settings, **training}.items():
                if before.get(name) != value:
                    raise SpdError(
                        f"{folder}: holds results with {name} = {before.get(name)}, not {value}; "
                        "choose another --out, or the same settings to go on"
                    )
            config |= training
        else:
            self._content = {"schema": SCHEMA, "created": _now(), "rows": []}
            self._content["config"] = {**settings, **training, "weights": {}, "split": {}}
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpdError(f"{folder}: cannot be made ({error}); choose another --out") from error
        self._content["config"]["data"] = str(data)
        self._content["environment"] = environment()

    def finished(self, cell: Cell, save_maps: bool = False) -> dict[str, Any] | None:
        """What the cell's folder holds, if the same weights, split and run have been measured before."""
        folder = cell_folder(self._folder, cell.key)
        if not (folder / CELL).is_file() or (save_maps and not (folder / "maps.npz").is_file()):
            return None
        content = read_json(folder / CELL)
        rows = content.get("rows")
        same = rows and rows[0]["weights_sha256"] == cell.source.sha256 and content["fingerprint"] == cell.fingerprint
        return content if same else None

    def uncollected(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the cells whose rows results.json does not hold as their folders have them."""
        recorded: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self._content["rows"]:
            recorded.setdefault(_key_of(row), []).append(row)
        found = []
        for cell in cells:
            content = self.finished(cell)
            if content is None or content["rows"] != recorded.get(_key_of(cell.key)):
                found.append(cell)
        return found

    @contextmanager
    def folder(self, cell: Cell) -> Iterator[Path]:
        """Give a folder to write into, cell.json among the rest; it appears whole when the block ends."""
        target = cell_folder(self._folder, cell.key)
        known = {path.name for path in target.iterdir()} if target.is_dir() else set()
        with replacing(target, known) as folder:
            yield folder

    def collect(self, cells: Sequence[Cell]) -> None:
        """Write results.json: its other rows as they are, then those of the finished ones among these cells."""
        keys = {_key_of(cell.key) for cell in cells}
        rows = [row for row in self._content["rows"] if _key_of(row) not in keys]
        config = self._content["config"]
        for cell in cells:
            if content := self.finished(cell):
                rows += content["rows"]
                config["weights"].setdefault(cell.source.weights, {}).update(cell.source.about)
                where = f"{cell.category.dataset}/{cell.category.name} {cell.run.protocol}"
                config["split"][where] = cell.category.split
        if rows != self._content["rows"]:
            self._content["rows"] = rows
            write_json(self._folder / "results.json", self._content)


def rows_of(cell: Cell, metrics: dict[str, Metric], seconds: float) -> list[dict[str, Any]]:
    """A finished cell's rows.

    Args:
        cell: What was measured.
        metrics: Values by name, or the reasons for their absence.
        seconds: Wall time of the cell.
    """
    test = cell.category.test
    anomalies = sum(sample.anomalous for sample in test)
    rows = []
    for name, metric in metrics.items():
        row = {
            "weights_sha256": cell.source.sha256,
            **cell.key,
            "metric": name,
            "value": metric.value,
            "n_train": len(cell.category.train),
            "n_test_normal": len(test) - anomalies,
            "n_test_anomalous": anomalies,
            "seconds": round(seconds, 3),
        }
        rows.append(row if metric.value is not None else {**row, "reason": metric.reason})
    return rows


def _key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
