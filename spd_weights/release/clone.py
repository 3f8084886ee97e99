"""What a clone keeps of each weight: its catalog row, and its card with the card's sources in model_cards/."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spd_weights.catalog import Row, catalog_path, load_catalog, load_results, results_path, row_problem
from spd_weights.checks import CARD, OPTIONAL_FILES, PREVIEW, RESULTS, TRAINING
from spd_weights.errors import SpdError, shown
from spd_weights.files import replacing, write_json
from spd_weights.release import cards, differences, results
from spd_weights.release.contents import Contents, write
from spd_weights.release.record import read_record

_CARD_FILES = (CARD, TRAINING, *OPTIONAL_FILES)  # the card, and what it is rendered from


def put_row(row: Row, path: Path | None = None) -> str:
    """Write a row into a catalog: replace the row of that name, or append it.

    Returns:
        "added", "replaced" or "unchanged".

    Raises:
        SpdError: The row is not sound, or the catalog cannot be written; the catalog stays unchanged.
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


def put_results(name: str, entries: list[dict[str, Any]]) -> None:
    """Write the results of one weight into the catalog's results file; an empty list removes them.

    Raises:
        SpdError: The file is damaged or cannot be written; it stays unchanged.
    """
    table: dict[str, list[dict[str, Any]]] = {}
    for entry in load_results():
        table.setdefault(entry.pop("weights"), []).append(entry)
    changed = {**table, name: entries} if entries else {key: value for key, value in table.items() if key != name}
    if changed != table:
        try:
            write_json(results_path(), {"schema": 1, "weights": changed})
        except OSError as error:
            raise SpdError(f"{results_path()} cannot be written: {error.strerror}") from error


def check_bundled(name: str) -> Row:
    """Find the row of a bundled weight; raise SpdError if there is none of this name."""
    row = load_catalog().get(name)
    if row is None or row.status != "bundled":
        raise SpdError(f"{shown(name)} is not a bundled weight of {catalog_path()}")
    return row


def remove_bundled(name: str) -> None:
    """Remove a bundled weight from a clone: its files, catalog row, results and card.

    Raises:
        SpdError: There is no such weight, or something cannot be removed.
    """
    row = check_bundled(name)
    rows = [asdict(each) for each in load_catalog().values() if each.name != name]
    for each in rows:
        each["counterpart"] = None if each["counterpart"] == name else each["counterpart"]
    folders = [(catalog_path().parent / str(row.file)).parent, card_folder(name)]
    try:
        write_json(catalog_path(), {"schema": 1, "rows": rows})
        put_results(name, [])
        for folder in filter(None, folders):
            shutil.rmtree(folder)
    except OSError as error:
        raise SpdError(f"{name} cannot be removed completely: {error}; delete the rest by hand") from error


def check_row(row: Row) -> None:
    """Raise SpdError if a row could not stand in a catalog."""
    if problem := row_problem(asdict(row)):
        raise SpdError(f"{catalog_path()} is unchanged: row {row.name!r}: {problem}")


def card_folder(name: str) -> Path | None:
    """The folder of a weight's card in a clone, `model_cards/<name>`; None outside a clone."""
    folder = catalog_path().parent.parent / "model_cards"
    return folder / name if folder.is_dir() else None


def keep_card(name: str, files: Contents) -> Path | None:
    """Write a card and its sources to the clone's model_cards/<name>; returns the folder, or None outside a clone."""
    folder = card_folder(name)
    if folder is not None:
        with replacing(folder, known=_CARD_FILES) as beside:
            write({each: files[each] for each in _CARD_FILES if each in files}, beside)
    return folder


def render_card(row: Row) -> str:
    """Render a weight's card from its sources in model_cards/.

    Raises:
        SpdError: There are none.
    """
    folder = card_folder(row.name)
    if folder is None or not (folder / TRAINING).is_file():
        raise SpdError(f"{row.name} has no card sources in {folder or 'model_cards/ (this is not a clone)'}")
    return cards.render(
        read_record(folder / TRAINING),
        results.read(folder / RESULTS) if (folder / RESULTS).is_file() else None,
        repo=row.repo,
        name=row.name if row.status == "bundled" else None,
        weights_sha256=row.sha256,
        preview=(folder / PREVIEW).is_file(),
    )


def render_chart(row: Row) -> str | None:
    """Render the chart of a weight's card from its results in model_cards/; None if they have no differences."""
    folder = card_folder(row.name)
    if folder is None or not (folder / RESULTS).is_file():
        return None
    entries = differences.own(results.read(folder / RESULTS), row.sha256)
    return differences.chart(entries) if entries else None


def card_paths(row: Row) -> list[Path]:
    """Every place in a clone where a weight's card lies: model_cards/, and beside a bundled weight."""
    paths = [folder / CARD] if (folder := card_folder(row.name)) else []
    if row.status == "bundled":
        paths.append((catalog_path().parent / str(row.file)).with_name(CARD))
    return paths
