"""The catalog: every weight that exists or is planned, pinned by repository, commit and sha256.

catalog.json in git is the root of trust. A name has the form `<architecture>_spd.<method>_<data>`. The weights of
the same recipe without SPD have the same name with the suffix `_eta0`; η is the paper's weight of the SPD loss.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from spd_weights.errors import SpdError, program, shown
from spd_weights.files import read_json

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
}
_RESULTS: dict[str, type | tuple[type, ...]] = {
    "dataset": str, "protocol": str, "method": str, "metric": str, "value": (int, float), "categories": int,
    "seeds": int, "spread": (int, float, type(None)),
}  # fmt: skip
START_KEYS = ("weights", "source", "conversion", "licence", "sha256", "command")
_PINNED: dict[str, tuple[str, ...]] = {
    "planned": (),
    "released": ("repo", "revision", "file", "bytes", "sha256", "config_sha256"),
    "bundled": ("file", "bytes", "sha256", "config_sha256"),
}


@dataclass(frozen=True)
class Row:
    """One weight.

    Attributes:
        name: The name for `timm.create_model`.
        architecture: The stock timm architecture whose keys and shapes the weights have.
        method: The pre-training objective that SPD is added to, which is also the training recipe's name.
        spd_weight: η, the weight of the SPD loss; 0 is the base method.
        data: The training data.
        status: planned (no weights yet), released (on the Hub) or bundled (a file beside the catalog).
        repo: `owner/name` on the Hub; released rows only.
        revision: The commit, 40 hexadecimal digits; released rows only.
        file: Path in the repository; for a bundled row, relative to the catalog's folder.
        bytes: Size of the file.
        sha256: Digest of the file.
        config_sha256: Digest of the config.json beside it, which says how to prepare images.
        preprocessing: `input_size` (C, H, W), `mean` and `std` (one per channel, for images in [0, 1]); null in
            planned rows.
        licence: The weights' licence, an identifier as the Hub spells it.
        start: Provenance of the weights that training started from: `weights` (their name) and, as far as recorded,
            `source`, `conversion`, `licence`, `sha256` and `command` (to fetch them); null for a random start.
        counterpart: Name of the row trained without SPD, or null.
        description: One line.
    """

    name: str
    architecture: str
    method: str
    spd_weight: float
    data: str
    status: Status
    repo: str | None
    revision: str | None
    file: str | None
    bytes: int | None
    sha256: str | None
    config_sha256: str | None
    preprocessing: dict[str, Any] | None
    licence: str | None
    start: dict[str, str] | None
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
        """The command that trains these weights."""
        start = " --model.init <weights to start from>" if self.method == "adapt" else ""
        options = f"--model.arch {self.architecture}{start} --spd.weight {self.spd_weight:g}"
        return f"{program('train')} {self.method} {options} --data.train <{self.data} folder>"

    def as_json(self) -> str:
        """The row as it stands in catalog.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def catalog_path() -> Path:
    """The catalog in use: the file named by SPD_WEIGHTS_CATALOG, or the package's own."""
    return Path(os.environ.get("SPD_WEIGHTS_CATALOG") or Path(__file__).with_name("catalog.json"))


def load_catalog(path: Path | None = None) -> dict[str, Row]:
    """Read and check a catalog.

    Args:
        path: The file; None takes `catalog_path()`.

    Returns:
        The rows by name, in the file's order.

    Raises:
        SpdError: Names the file, the row and the wrong field.
    """
    path = path or catalog_path()
    content = read_json(path)
    if content.get("schema") != 1 or not isinstance(content.get("rows"), list):
        raise SpdError(f'{path} is not a catalog: expected {{"schema": 1, "rows": […]}}')
    rows: dict[str, Row] = {}
    for values in content["rows"]:
        if problem := row_problem(values):
            name = values.get("name") if isinstance(values, dict) else values
            raise SpdError(f"{path}, row {shown(repr(name))}: {problem}")
        row = Row(**values)
        if row.name in rows:
            raise SpdError(f"{path}, row {row.name!r}: the name appears twice")
        rows[row.name] = row
    for row in rows.values():
        if row.counterpart is not None and row.counterpart not in rows:
            raise SpdError(
                f"{path}, row {row.name!r}: its counterpart {shown(repr(row.counterpart))} is not in the catalog"
            )
    return rows


def list_weights(planned: bool = False) -> list[Row]:
    """List the weights that exist, and after them, on request, the planned ones.

    Args:
        planned: Include rows without weights.

    Raises:
        SpdError: The catalog cannot be read.
    """
    rows = sorted(load_catalog().values(), key=lambda row: row.status == "planned")
    return [row for row in rows if planned or row.status != "planned"]


def results_path() -> Path:
    """The file with the measured results of the catalog in use, beside it: `<catalog>_results.json`."""
    return catalog_path().with_name(f"{catalog_path().stem}_results.json")


def load_results(name: str | None = None) -> list[dict[str, Any]]:
    """Read what was measured with a weight.

    Args:
        name: A weight's name; None returns the results of all weights.

    Returns:
        One entry per (dataset, protocol, method, metric): those four, `weights`, `value` (the mean over categories),
        `spread` (the standard deviation over seeds; None with one seed), `categories` and `seeds`. Empty if nothing
        was measured.

    Raises:
        SpdError: There is no such weight, or the file is damaged.
    """
    path, wanted = results_path(), find(name).name if name is not None else None
    if not path.is_file():
        return []
    content = read_json(path)
    table = content.get("weights")
    if content.get("schema") != 1 or not isinstance(table, Mapping) or not all(map(_is_results, table.values())):
        raise SpdError(f'{path} is not a results file: expected {{"schema": 1, "weights": {{name: [results]}}}}')
    return [
        {"weights": weights, **entry}
        for weights, entries in table.items()
        if wanted in (None, weights)
        for entry in entries
    ]


def _is_results(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, Mapping)
        and set(entry) == set(_RESULTS)
        and all(isinstance(entry[key], kind) for key, kind in _RESULTS.items())
        and all(math.isfinite(number) for number in entry.values() if isinstance(number, float))
        for entry in value
    )


def default_row(rows: Mapping[str, Row], entrypoint: str) -> Row:
    """Choose the row for a name without a tag: with SPD if possible, then with weights if possible, then the first."""
    of_entrypoint = [row for row in rows.values() if row.entrypoint == entrypoint]
    return min(of_entrypoint, key=lambda row: (row.spd_weight == 0, row.status == "planned"))


def find(name: str) -> Row:
    """Look up a weight by its name, with or without the tag.

    Raises:
        SpdError: There is no such row; the message lists the candidates.
    """
    rows = load_catalog()
    if name in rows:
        return rows[name]
    entrypoint = name.partition(".")[0]
    near = [row.name for row in rows.values() if row.entrypoint == entrypoint]
    if name == entrypoint and near:
        return default_row(rows, entrypoint)
    raise SpdError(f"'{shown(name)}' is not in the catalog {catalog_path()}; it has {', '.join(near or rows)}")


def row_problem(values: Any) -> str | None:
    """Describe what is wrong with a row; None if nothing is."""
    if not isinstance(values, Mapping):
        return "not an object"
    names = {field.name for field in fields(Row)}
    if wrong := sorted(names ^ set(values)):
        return f"missing or unknown fields: {shown(', '.join(wrong))}"
    for key in ("name", "architecture", "method", "data", "status", "description"):
        if not isinstance(values[key], str) or not values[key]:
            return f"{key} must be a string, not {shown(repr(values[key]))}"
    for key in ("licence", "counterpart"):
        if not isinstance(values[key], str | None):
            return f"{key} must be a string or null, not {shown(repr(values[key]))}"
    weight, match = values["spd_weight"], NAME.fullmatch(values["name"])
    if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
        return f"spd_weight must be a number >= 0, not {shown(repr(weight))}"
    if match is None or match["architecture"] != values["architecture"]:
        return "the name must have the form <architecture>_spd.<method>_<data>[_eta0]"
    if values["name"].endswith("_eta0") != (weight == 0):
        return "the name must end in _eta0 if and only if spd_weight is 0"
    for key, allowed in (("method", _METHODS), ("status", tuple(_PINNED))):
        if values[key] not in allowed:
            return f"{key} must be one of {', '.join(allowed)}, not {shown(repr(values[key]))}"
    if values["start"] is not None and not _is_provenance(values["start"]):
        return f"start must be null or an object with strings: {', '.join(START_KEYS)}"
    if (values["preprocessing"] is None) != (values["status"] == "planned"):
        return "preprocessing must be null in a planned row, and only there"
    if values["preprocessing"] is not None and not _is_preprocessing(values["preprocessing"]):
        return "preprocessing must have input_size, mean and std, one mean and std per channel"
    return _pin_problem(values)


def _is_provenance(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and {"weights"} <= set(value) <= set(START_KEYS)
        and all(isinstance(text, str) and text for text in value.values())
    )


def _is_preprocessing(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"input_size", "mean", "std"}:
        return False
    size, mean, std = value["input_size"], value["mean"], value["std"]
    return (
        all(isinstance(numbers, list) for numbers in (size, mean, std))
        and len(size) == 3
        and all(type(side) is int and 1 <= side <= 2048 for side in size)
        and len(mean) == len(std) == size[0]
        and all(type(number) in (int, float) and math.isfinite(number) for number in (*mean, *std))
    )


def _pin_problem(values: Mapping[str, Any]) -> str | None:
    status = values["status"]
    for key, pattern in _PIN_PATTERNS.items():
        value = values[key]
        if key not in _PINNED[status]:
            if value is not None:
                return f"{key} must be null in a {status} row"
        elif type(value) is not (int if key == "bytes" else str) or not re.fullmatch(pattern, str(value)):
            return f"a {status} row needs its pins, and {key} is {shown(repr(value))}"
    return None
