"""results.json: written after every finished cell, read again to skip what is already there."""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eval.datasets import Category
from eval.features import Extractor
from eval.metrics import Metric
from eval.protocols import Run, Settings
from spd_weights.environment import environment
from spd_weights.errors import SpdError
from spd_weights.files import read_json, replacing, write_json

SCHEMA = 1
CELL = "cell.json"


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


class Results:
    """The results in a folder, grown one cell at a time."""

    def __init__(self, folder: Path, settings: Settings, data: Path) -> None:
        """Open the folder's results, or start them.

        Args:
            folder: Where results.json lies or will lie.
            settings: Must be those of the results already there.
            data: The data folder as the user named it, for the record.

        Raises:
            SpdError: The folder holds results of other settings, or cannot be used.
        """
        self._folder = folder
        if (folder / "results.json").exists():
            self._content = read_results(folder)
            for name, value in asdict(settings).items():
                if self._content["config"].get(name) != value:
                    raise SpdError(
                        f"{folder}: holds results with {name} = {self._content['config'].get(name)}, not {value}; "
                        "choose another --out, or the same settings to go on"
                    )
        else:
            self._content = {"schema": SCHEMA, "created": _now(), "rows": []}
            self._content["config"] = {**asdict(settings), "weights": {}}
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpdError(f"{folder}: cannot be made ({error}); choose another --out") from error
        self._content["config"]["data"] = str(data)
        self._content["environment"] = environment()

    def finished(self, extractor: Extractor, category: Category, run: Run, save_maps: bool) -> bool:
        """Whether the same weights, split and run have been measured here before."""
        key = _key(extractor, category, run)
        rows = [row for row in self._content["rows"] if _is_of(row, key)]
        folder = cell_folder(self._folder, key)
        if not rows or rows[0]["weights_sha256"] != extractor.sha256 or not (folder / CELL).is_file():
            return False
        if save_maps and not (folder / "maps.npz").is_file():
            return False
        return read_json(folder / CELL)["fingerprint"] == category.fingerprint()

    @contextmanager
    def cell(self, extractor: Extractor, category: Category, run: Run) -> Iterator[Path]:
        """Give a folder to write the cell's figures into; it appears whole when the block ends.

        Rows of an earlier measurement go first: killed in between, they must not pass for the new ones.
        """
        key = _key(extractor, category, run)
        rows = [row for row in self._content["rows"] if not _is_of(row, key)]
        if len(rows) < len(self._content["rows"]):
            self._content["rows"] = rows
            self._write()
        target = cell_folder(self._folder, key)
        known = {path.name for path in target.iterdir()} if target.is_dir() else set()
        with replacing(target, known) as folder:
            yield folder

    def add(
        self, extractor: Extractor, category: Category, run: Run, metrics: dict[str, Metric], seconds: float
    ) -> None:
        """Record a finished cell, after its figures, and write results.json.

        Args:
            extractor: The weights.
            category: The data.
            run: Protocol, method and seed.
            metrics: Values by name, or the reasons for their absence.
            seconds: Wall time of the cell.
        """
        key = _key(extractor, category, run)
        anomalies = sum(sample.anomalous for sample in category.test)
        for name, metric in metrics.items():
            row = {
                "weights": extractor.weights,
                "weights_sha256": extractor.sha256,
                **key,
                "metric": name,
                "value": metric.value,
                "n_train": len(category.train),
                "n_test_normal": len(category.test) - anomalies,
                "n_test_anomalous": anomalies,
                "seconds": round(seconds, 3),
            }
            if metric.value is None:
                row["reason"] = metric.reason
            self._content["rows"].append(row)
        self._content["config"]["weights"][extractor.weights] = {
            "architecture": extractor.architecture,
            "layers": extractor.layers,
            "device": extractor.device.type,
        }
        splits = self._content["config"].setdefault("split", {})
        splits[f"{category.dataset}/{category.name} {run.protocol}"] = category.split
        self._write()

    def _write(self) -> None:
        write_json(self._folder / "results.json", self._content)


def _key(extractor: Extractor, category: Category, run: Run) -> dict[str, Any]:
    where = {"weights": extractor.weights, "dataset": category.dataset, "category": category.name}
    return {**where, **asdict(run)}


def _is_of(row: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(row[name] == value for name, value in key.items())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
