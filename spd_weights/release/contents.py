"""The files of a release, and the catalog row that pins it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spd_weights.catalog import Row, load_catalog
from spd_weights.checks import CARD, CHART, CONFIG, EXPORT_FILES, PREVIEW, RESULTS, TRAINING, WEIGHTS
from spd_weights.errors import SpdError
from spd_weights.files import digest_of, json_text, read_json, sha256
from spd_weights.release import cards, differences, results
from spd_weights.release.record import read_record

Contents = Mapping[str, Path | bytes]
"""File names to contents: a file on disk, or bytes made here."""

_PROVENANCE = (
    "method", "spd_weight", "data.name", "init", "seed", "steps", "config", "command", "environment", "created",
)  # fmt: skip


def contents(
    directory: Path,
    *,
    repo: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    datasets: Mapping[str, str] | None = None,
) -> dict[str, Path | bytes]:
    """Collect the files of a release.

    Args:
        directory: A sound export; its results.json and preview.png are included if present.
        repo: `owner/name` for a release on the Hub.
        name: The catalog name for a weight bundled with this package.
        licence: The weights' licence, written into every file that states one; None keeps what the export says.
        data_licence: The training data's licence, likewise.
        datasets: Dataset name in results.json to its id on the Hub, for `.eval_results`.

    Returns:
        The export's files, results without this machine's paths, `.eval_results`, and the rendered card with its chart.

    Raises:
        SpdError: The training record lacks facts that published weights must state.
    """
    files: dict[str, Path | bytes] = {each: directory / each for each in EXPORT_FILES}
    training = _provenance(directory / TRAINING)
    if licence is not None:
        config = read_json(directory / CONFIG)
        config["pretrained_cfg"]["license"] = training["licence"] = licence
        files[CONFIG] = _json(config)
    if data_licence is not None:
        training["data"]["licence"] = data_licence
    if licence is not None or data_licence is not None:
        files[TRAINING] = _json(training)
    digest, measured = sha256(directory / WEIGHTS), None
    if (directory / RESULTS).is_file():
        measured = results.for_weights(results.read(directory / RESULTS), digest)
        files[RESULTS] = _json(measured)
        for stem, text in results.eval_results(measured, digest, datasets or {}).items():
            files[f".eval_results/{stem}.yaml"] = text.encode()
        if entries := differences.own(measured, digest):
            files[CHART] = differences.chart(entries).encode()
    if preview := (directory / PREVIEW).is_file():
        files[PREVIEW] = _checked_png(directory / PREVIEW)
    card = cards.render(training, measured, repo=repo, name=name, weights_sha256=digest, preview=preview)
    return {**files, CARD: card.encode()}


def _checked_png(path: Path) -> Path:
    # Nobody may be made to publish a private file by a link of this name.
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            raise SpdError(f"{path} is not a PNG image; draw it again with --preview, or remove it")
    return path


def row(files: Contents, name: str | None = None, **where: Any) -> Row:
    """Make the catalog row of a release.

    Args:
        files: The result of `contents`.
        name: The row's name; None derives it from the training record.
        where: `status` and the pins that go with it: `repo`, `revision`, `file`.
    """
    training, config = _read(files[TRAINING]), _read(files[CONFIG])
    weights = Path(str(files[WEIGHTS]))
    name = name or f"{training['architecture']}_spd.{cards.tag(training)}"
    counterpart = f"{name}_eta0"
    values = {
        "name": name,
        "architecture": training["architecture"],
        "method": training["method"],
        "spd_weight": training["spd_weight"],
        "data": training["data"]["name"],
        "repo": None,
        "revision": None,
        "bytes": weights.stat().st_size,
        "sha256": sha256(weights),
        "config_sha256": digest_of(files[CONFIG]),
        "preprocessing": {key: config["pretrained_cfg"][key] for key in ("input_size", "mean", "std")},
        "licence": training.get("licence"),
        "start": cards.start(training) or None,
        "counterpart": counterpart if training["spd_weight"] and counterpart in load_catalog() else None,
        "description": cards.title(training),
    }
    return Row(**{**values, **where})


def measured(files: Contents) -> list[dict[str, Any]]:
    """The complete results of a release, as the catalog's results file has them."""
    if RESULTS not in files:
        return []
    entries = results.summarise(_read(files[RESULTS]), sha256(Path(str(files[WEIGHTS]))))
    return [entry for entry in entries if entry.pop("reason") is None]


def write(files: Contents, folder: Path) -> None:
    """Write files into an existing folder."""
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, folder / name)


def _provenance(path: Path) -> dict[str, Any]:
    training = read_record(path)
    data = training.get("data")
    known = {**training, "data.name": data.get("name") if isinstance(data, dict) else None}
    if missing := [key for key in _PROVENANCE if known.get(key) in (None, "", {})]:
        raise SpdError(f"{path} does not record {', '.join(missing)}; published weights must state these facts")
    return training


def _json(value: object) -> bytes:
    return json_text(value).encode()


def _read(content: Path | bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(content if isinstance(content, bytes) else content.read_bytes())
    return value
