"""The catalog: every weight there is or is planned, pinned by repository, commit and sha256.

catalog.json in git is the root of trust. A name reads `<architecture>_spd.<method>_<data>`; the weights of the
same recipe without SPD carry the tag suffix `_eta0` (η is the paper's weight of the SPD loss) under the same
entrypoint, so that one import registers both and a pair differs in its suffix alone.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from spd_weights.errors import SpdError, shown
from spd_weights.files import read_json, write_json

Status = Literal["planned", "released", "bundled"]

NAME = re.compile(r"(?P<entrypoint>(?P<architecture>[a-z0-9_]+)_spd)\.(?P<tag>[a-z0-9_]+)")
_METHODS = ("simsiam", "moco", "simclr", "supervised", "adapt")
_PIN_PATTERNS = {
    "repo": r"(?!.*\.\.)[\w-][\w.-]*/[\w-][\w.-]*",
    "revision": r"[0-9a-f]{40}",
    "file": r"(?!/|.*(\.\./|\\|//|:))[^\0\n]+\.safetensors",
    "bytes": r"[1-9]\d*",
    "sha256": r"[0-9a-f]{64}",
    "config_sha256": r"[0-9a-f]{64}",
    "keys_sha256": r"[0-9a-f]{64}",
}
_GOLDEN: dict[str, type | tuple[type, ...]] = {
    "stage": str, "shape": list, "mean": (int, float), "norm": (int, float),
}  # fmt: skip
_RESULTS: dict[str, type | tuple[type, ...]] = {
    "dataset": str, "protocol": str, "method": str, "metric": str, "value": (int, float), "categories": int,
    "seeds": int, "spread": (int, float, type(None)),
}  # fmt: skip
_PINNED: dict[str, tuple[str, ...]] = {
    "planned": (),
    "released": ("repo", "revision", "file", "bytes", "sha256", "config_sha256", "keys_sha256"),
    "bundled": ("file", "bytes", "sha256", "config_sha256", "keys_sha256"),
}


@dataclass(frozen=True)
class Row:
    """One weight.

    Attributes:
        name: What `timm.create_model` takes.
        architecture: The stock timm architecture whose keys and shapes the weights have.
        method: The pre-training objective beside SPD.
        spd_weight: η, the weight of the SPD loss; 0 is the base method.
        data: What it was, or will be, trained on.
        recipe: The recipe of `python -m train`.
        status: planned (no weights yet), released (on the Hub) or bundled (a file beside the catalog).
        repo: `owner/name` on the Hub; released rows only.
        revision: The commit, 40 hexadecimal digits; released rows only.
        file: Path in the repository, or relative to the catalog's folder where bundled.
        bytes: Size of the file.
        sha256: Digest of the file.
        config_sha256: Digest of the config.json beside it, which says how images are to be prepared.
        keys_sha256: Digest of the tensors' names and shapes (`export.keys_digest`).
        golden: What the backbone answers to a fixed picture, a stage an entry (`golden.measure`).
        results: What was measured with it, a mean over categories an entry (`results.summarise`); null where
            nothing was.
        licence: Of the weights, an identifier as the Hub spells it.
        counterpart: Name of the row trained without SPD, else null.
        description: One line.
    """

    name: str
    architecture: str
    method: str
    spd_weight: float
    data: str
    recipe: str
    status: Status
    repo: str | None
    revision: str | None
    file: str | None
    bytes: int | None
    sha256: str | None
    config_sha256: str | None
    keys_sha256: str | None
    golden: list[dict[str, Any]] | None
    results: list[dict[str, Any]] | None
    licence: str | None
    counterpart: str | None
    description: str

    @property
    def entrypoint(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]

    @property
    def command(self) -> str:
        """What trains it."""
        start = " --model.init <weights to start from>" if self.recipe == "adapt" else ""
        options = f"--model.arch {self.architecture}{start} --spd.weight {self.spd_weight:g}"
        return f"python -m train {self.recipe} {options} --data.train <{self.data} folder>"

    def as_json(self) -> str:
        """The row as catalog.json has it."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def catalog_path() -> Path:
    """The catalog in use: the file that SPD_WEIGHTS_CATALOG names, else the package's own."""
    return Path(os.environ.get("SPD_WEIGHTS_CATALOG") or Path(__file__).with_name("catalog.json"))


def load_catalog(path: Path | None = None) -> dict[str, Row]:
    """Read and check a catalog.

    Args:
        path: The file; None takes `catalog_path()`.

    Returns:
        The rows by name, in the file's order: the first of an entrypoint is its default.

    Raises:
        SpdError: Names the file, the row and the field that is wrong.
    """
    path = path or catalog_path()
    content = read_json(path)
    if content.get("schema") != 1 or not isinstance(content.get("rows"), list):
        raise SpdError(f'{path} is not a catalog: expected {{"schema": 1, "rows": […]}}')
    rows: dict[str, Row] = {}
    for values in content["rows"]:
        if problem := _problem(values):
            name = values.get("name") if isinstance(values, dict) else values
            raise SpdError(f"{path}, row {shown(repr(name))}: {problem}")
        row = Row(**values)
        if row.name in rows:
            raise SpdError(f"{path}, row {row.name!r}: the name is there twice")
        rows[row.name] = row
    for row in rows.values():
        if row.counterpart is not None and row.counterpart not in rows:
            raise SpdError(
                f"{path}, row {row.name!r}: its counterpart {shown(repr(row.counterpart))} is not in the catalog"
            )
    return rows


def card_folder(name: str) -> Path | None:
    """Where a clone keeps a weight's card and its sources: `model_cards/<name>`; None where there is no clone."""
    cards = catalog_path().parent.parent / "model_cards"
    return cards / name if cards.is_dir() else None


def put_row(row: Row, path: Path | None = None) -> str:
    """Write a row into a catalog, in the place of the one of that name or at the end.

    Returns:
        "added", "replaced" or "unchanged".

    Raises:
        SpdError: The catalog would not be sound with the row, or cannot be written; it is as it was.
    """
    path = path or catalog_path()
    rows = load_catalog(path)
    change = "unchanged" if rows.get(row.name) == row else "replaced" if row.name in rows else "added"
    if change != "unchanged":
        check_row(row)
        values = [asdict(each) for each in {**rows, row.name: row}.values()]
        try:
            write_json(path, {"schema": 1, "rows": values})
        except OSError as error:
            raise SpdError(f"{path} cannot be written: {error.strerror}; the row to paste:\n{row.as_json()}") from error
    return change


def check_row(row: Row) -> None:
    """Raise SpdError where a row could not stand in a catalog."""
    if problem := _problem(asdict(row)):
        raise SpdError(f"{catalog_path()} is as it was: row {row.name!r}: {problem}")


def default_row(rows: Mapping[str, Row], entrypoint: str) -> Row:
    """Choose what an entrypoint's bare name stands for: with SPD before without, weights before plans."""
    of_entrypoint = [row for row in rows.values() if row.entrypoint == entrypoint]
    return min(of_entrypoint, key=lambda row: (row.spd_weight == 0, row.status == "planned"))


def find(name: str) -> Row:
    """Look a weight up by its name, with or without the tag.

    Raises:
        SpdError: There is no such row; names the nearest.
    """
    rows = load_catalog()
    if name in rows:
        return rows[name]
    entrypoint = name.partition(".")[0]
    near = [row.name for row in rows.values() if row.entrypoint == entrypoint]
    if name == entrypoint and near:
        return default_row(rows, entrypoint)
    raise SpdError(f"'{shown(name)}' is not in the catalog {catalog_path()}; there is {', '.join(near or rows)}")


def _problem(values: Any) -> str | None:
    """Say what is wrong with a row, or None."""
    if not isinstance(values, Mapping):
        return "not an object"
    names = {field.name for field in fields(Row)}
    if wrong := sorted(names ^ set(values)):
        return f"missing or unknown fields: {shown(', '.join(wrong))}"
    for key in ("name", "architecture", "method", "data", "recipe", "status", "description"):
        if not isinstance(values[key], str) or not values[key]:
            return f"{key} must be a text, not {shown(repr(values[key]))}"
    for key in ("licence", "counterpart"):
        if not isinstance(values[key], str | None):
            return f"{key} must be a text or null, not {shown(repr(values[key]))}"
    weight, match = values["spd_weight"], NAME.fullmatch(values["name"])
    if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
        return f"spd_weight must be a number >= 0, not {shown(repr(weight))}"
    if match is None or match["architecture"] != values["architecture"]:
        return "the name must read <architecture>_spd.<method>_<data>[_eta0]"
    if values["name"].endswith("_eta0") != (weight == 0):
        return "the name must end in _eta0 exactly where spd_weight is 0"
    for key, allowed in (("method", _METHODS), ("status", tuple(_PINNED))):
        if values[key] not in allowed:
            return f"{key} must be one of {', '.join(allowed)}, not {shown(repr(values[key]))}"
    for key, needs in (("golden", _GOLDEN), ("results", _RESULTS)):
        if values[key] is not None and not _is_table(values[key], needs):
            return f"{key} must be null or a list of objects with {', '.join(needs)}, its numbers finite"
    if values["golden"] is not None and values["status"] == "planned":
        return "golden must be null while the status is planned"
    return _pin_problem(values)


def _is_table(value: Any, needs: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, Mapping)
        and set(entry) == set(needs)
        and all(isinstance(entry[key], kind) for key, kind in needs.items())
        and all(math.isfinite(number) for number in entry.values() if isinstance(number, float))
        for entry in value
    )


def _pin_problem(values: Mapping[str, Any]) -> str | None:
    status = values["status"]
    for key, pattern in _PIN_PATTERNS.items():
        value = values[key]
        if key not in _PINNED[status]:
            if value is not None:
                return f"{key} must be null while the status is {status}"
        elif type(value) is not (int if key == "bytes" else str) or not re.fullmatch(pattern, str(value)):
            return f"a {status} row needs its pins, and {key} is {shown(repr(value))}"
    return None
