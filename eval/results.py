"""results.json, and the cells' folders it is assembled from. Cells that are there are not measured again."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spd_weights.errors import SpdError
from spd_weights.files import json_text, read_json, replacing, write_json

from .cell import CELL, MAPS, Cell, cell_folder
from .detectors.methods import Settings
from .protocols import settings_used

SCHEMA = 1
_KEY = ("weights", "dataset", "category", "protocol", "method", "seed")  # identifies a cell


def read_results(folder: Path) -> dict[str, Any]:
    """Read `folder`/results.json.

    Raises:
        SpdError: It is missing, damaged or has another schema.
    """
    path = folder / "results.json"
    content = read_json(path)
    if content.get("schema") != SCHEMA:
        raise SpdError(f"{path}: not the results of this version (schema {SCHEMA}); choose another folder")
    if problem := _problem(content):
        raise SpdError(f"{path}: {problem}; restore the file, or evaluate again")
    return content


def _problem(content: dict[str, Any]) -> str | None:
    """Say what is wrong with the shape of a results file, which anyone may have written."""
    for key, kind in {"created": str, "environment": dict, "config": dict, "rows": list}.items():
        if not isinstance(content.get(key), kind):
            return f"{key} is missing or of the wrong kind"
    if not isinstance(content["environment"].get("cpu"), str):
        return "environment does not name the cpu"
    for number, row in enumerate(content["rows"]):
        for key in ("weights", "dataset", "category", "protocol", "method", "metric"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                return f"row {number} has no {key}"
        if not isinstance(row.get("seed"), int) or not isinstance(row.get("value"), int | float | None):
            return f"row {number} has no seed or no value"
    return None


class Results:
    """The results in a folder, which grow cell by cell.

    Each process writes the folders of its own cells; a folder is complete or absent. One process assembles
    results.json from them, in the order in which the cells were requested.
    """

    def __init__(self, folder: Path, data: Path, settings: dict[str, Any], methods: Iterable[str]) -> None:
        """Open the folder's results, or start them.

        Args:
            folder: The folder of results.json.
            data: The data folder as the user named it, for the record.
            settings: All settings of this call. A setting that these methods share with the methods of earlier results
                must have the same value there.
            methods: The methods of this call.

        Raises:
            SpdError: The folder holds results of other settings, or cannot be used.
        """
        self._folder = folder
        if (folder / "results.json").exists():
            self._content = read_results(folder)
        else:
            empty = {"weights": {}, "split": {}}
            self._content = {"schema": SCHEMA, "created": _now(), "environment": {}, "config": empty, "rows": []}
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpdError(f"{folder}: cannot be created ({error}); choose another --out") from error
        config = self._content["config"]
        settings = json.loads(json_text(settings))  # as results.json will have them
        held_values = {**asdict(Settings()), **config}  # earlier versions had fewer options
        used = {name for method in methods for name in settings_used(method)}
        held = {name for row in self._content["rows"] for name in settings_used(row["method"])}
        for name in sorted(used & held & held_values.keys()):
            if held_values[name] != settings[name]:
                raise SpdError(
                    f"{folder}: holds results with {name} = {held_values[name]}, not {settings[name]}; "
                    "choose another --out, or the same settings to resume"
                )
        self._content["config"] = {**settings, **config, **{name: settings[name] for name in used}, "data": str(data)}

    def finished(self, cell: Cell, save_maps: bool = False) -> dict[str, Any] | None:
        """The content of the cell's cell.json if the same weights, split and run were measured before."""
        folder = cell_folder(self._folder, cell.key)
        if not (folder / CELL).is_file() or (save_maps and not (folder / MAPS).is_file()):
            return None
        content = read_json(folder / CELL)
        rows = content.get("rows")
        same = (
            rows and rows[0]["weights_sha256"] == cell.predictor.sha256 and content["fingerprint"] == cell.fingerprint
        )
        return content if same else None

    def uncollected(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are unfinished, or whose rows differ from those in results.json."""
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
        """Provide an empty folder for the cell's files; it replaces the cell's folder when the block ends."""
        target = cell_folder(self._folder, cell.key)
        known = {path.name for path in target.iterdir()} if target.is_dir() else set()
        with replacing(target, known) as folder:
            yield folder

    def collect(self, cells: Sequence[Cell]) -> None:
        """Write results.json: its rows of other cells, followed by those of these cells that are finished."""
        keys = {_key_of(cell.key) for cell in cells}
        rows = [row for row in self._content["rows"] if _key_of(row) not in keys]
        config = self._content["config"]
        environments = self._content.get("environments", {})
        for cell in cells:
            if content := self.finished(cell):
                rows += content["rows"]
                environments[content["rows"][0]["environment"]] = content["environment"]
                self._content["environment"] = content["environment"]
                config["weights"].setdefault(cell.predictor.weights, {}).update(cell.predictor.about)
                where = f"{cell.category.dataset}/{cell.category.name} {cell.run.protocol}"
                config["split"][where] = cell.category.split
        if rows != self._content["rows"]:
            self._content["rows"] = rows
            used = {row.get("environment") for row in rows}
            self._content["environments"] = {name: where for name, where in environments.items() if name in used}
            write_json(self._folder / "results.json", self._content)


def _key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
