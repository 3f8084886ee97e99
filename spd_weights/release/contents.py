"""What is released with a weight: its files, the card that says where it is, and the catalog row that pins it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spd_weights.catalog import Row, card_folder, load_catalog
from spd_weights.errors import SpdError
from spd_weights.files import digest_of, json_text, read_json, replacing, sha256
from spd_weights.release import cards, results
from spd_weights.release.export import CARD, CONFIG, EXPORT_FILES, PREVIEW, RESULTS, TRAINING, WEIGHTS, keys_digest

# Names of files to their contents, on disk or made here.
Contents = Mapping[str, Path | bytes]

CARD_FILES = (CARD, TRAINING, RESULTS, PREVIEW)  # what a card is rendered from, and the card
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
) -> dict[str, Path | bytes]:
    """Say what a release of an export consists of.

    Args:
        directory: A sound export; results.json and preview.png are taken along where they are there.
        repo: `owner/name` where it is released on the Hub.
        name: The catalog's name where it comes with this package.
        licence: Of the weights, written into every file that states one; None leaves what the export says.
        data_licence: Of the training data, likewise.

    Returns:
        The files: the export's, results without this machine's paths, `.eval_results`, and the rendered card.

    Raises:
        SpdError: The export does not say where it is from.
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
        measured = results.read(directory / RESULTS)
        files[RESULTS] = _json(measured)
        for stem, text in results.eval_results(measured, digest).items():
            files[f".eval_results/{stem}.yaml"] = text.encode()
    if preview := (directory / PREVIEW).is_file():
        files[PREVIEW] = directory / PREVIEW
    card = cards.render(training, measured, repo=repo, name=name, weights_sha256=digest, preview=preview)
    return {**files, CARD: card.encode()}


def row(files: Contents, name: str | None = None, **where: Any) -> Row:
    """Make the catalog row of a release.

    Args:
        files: What `contents` gave.
        name: The row's name; None makes it of the training record.
        where: `status` and the pins that it has: `repo`, `revision`, `file`.
    """
    training, config = _read(files[TRAINING]), _read(files[CONFIG])
    measured = _read(files[RESULTS]) if RESULTS in files else None
    weights = Path(str(files[WEIGHTS]))
    digest = sha256(weights)
    name = name or f"{training['architecture']}_spd.{cards.tag(training)}"
    counterpart = f"{name}_eta0"
    values = {
        "name": name,
        "architecture": training["architecture"],
        "method": training["method"],
        "spd_weight": training["spd_weight"],
        "data": training["data"]["name"],
        "recipe": training["method"],
        "repo": None,
        "revision": None,
        "bytes": weights.stat().st_size,
        "sha256": digest,
        "config_sha256": digest_of(files[CONFIG]),
        "keys_sha256": keys_digest(weights),
        "golden": config["spd"]["golden"],
        "results": [entry for entry in results.summarise(measured, digest) if entry.pop("reason") is None] or None,
        "licence": training.get("licence"),
        "counterpart": counterpart if training["spd_weight"] and counterpart in load_catalog() else None,
        "description": cards.title(training),
    }
    return Row(**{**values, **where})


def keep_card(name: str, files: Contents) -> Path | None:
    """Put the card and its sources into the clone's model_cards/<name>; returns the folder, None without a clone."""
    folder = card_folder(name)
    if folder is not None:
        with replacing(folder, known=CARD_FILES) as beside:
            write({each: files[each] for each in CARD_FILES if each in files}, beside)
    return folder


def card_again(row: Row) -> str:
    """Render the card of a clone's weight from the sources that lie beside it in model_cards/.

    Raises:
        SpdError: There are none.
    """
    folder = card_folder(row.name)
    if folder is None or not (folder / TRAINING).is_file():
        raise SpdError(f"{row.name} has no sources in {folder or 'model_cards/ (this is no clone)'}")
    return cards.render(
        read_json(folder / TRAINING),
        results.read(folder / RESULTS) if (folder / RESULTS).is_file() else None,
        repo=row.repo,
        name=row.name if row.status == "bundled" else None,
        weights_sha256=row.sha256,
        preview=(folder / PREVIEW).is_file(),
    )


def write(files: Contents, folder: Path) -> None:
    """Write files into a folder that is there."""
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, folder / name)


def _provenance(path: Path) -> dict[str, Any]:
    training = read_json(path)
    data = training.get("data")
    known = {**training, "data.name": data.get("name") if isinstance(data, dict) else None}
    if missing := [key for key in _PROVENANCE if known.get(key) in (None, "", {})]:
        raise SpdError(f"{path} does not record {', '.join(missing)}; published weights must say what they are")
    return training


def _json(value: object) -> bytes:
    return json_text(value).encode()


def _read(content: Path | bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(content if isinstance(content, bytes) else content.read_bytes())
    return value
