"""Weights that come with the package: an export in half precision, its catalog row and its card, in a clone."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from spd_weights.catalog import NAME, Row, card_folder, catalog_path, check_row, put_row
from spd_weights.errors import SpdError, shown
from spd_weights.files import read_json, replacing
from spd_weights.local import create_model
from spd_weights.release import contents as release
from spd_weights.release import golden
from spd_weights.release.export import EXPORT_FILES, PREVIEW, RESULTS, TRAINING, WEIGHTS, check_export, export_backbone

LIMIT = 12 * 10**6  # bytes: what everybody downloads with `pip install` stays small


def bundle(
    directory: Path,
    name: str | None = None,
    results: Path | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> tuple[Row, Path, float]:
    """Put an export into the package: `bundled/<name>/` beside the catalog, a row, and model_cards/<name>/.

    Kernels and matrices are rounded to float16, so the file is another than the export's, with golden features and
    a digest of its own, and results measured with the export are not its own: evaluate it under its new name, then
    bundle again with those results. The same input gives the same files.

    Args:
        directory: The export.
        name: `<architecture>_spd.<tag>`; None makes it of the training record.
        results: A results.json of `python -m eval`; None takes the export's own, if it has one.
        licence: Of the weights, as the Hub spells it; None takes the training record's.
        data_licence: Of the training data, likewise.

    Returns:
        The row, the folder that loads with `local-dir:`, and how far the norms of its feature maps are from the
        export's, relatively.

    Raises:
        SpdError: The export is not sound or too large, the name or the results are not its own, or there is no
            clone to put it into.
    """
    config = check_export(directory)
    training = read_json(directory / TRAINING)
    architecture = config["architecture"]
    name = name or f"{architecture}_spd.{config['pretrained_cfg']['tag']}"
    match = NAME.fullmatch(name)
    if match is None or match["architecture"] != architecture:
        raise SpdError(f"'{shown(name)}' cannot be its name; give --name {architecture}_spd.<method>_<data>[_eta0]")
    if card_folder(name) is None:
        raise SpdError(f"{catalog_path()} is in no clone: there is no model_cards/ beside its folder")
    with TemporaryDirectory() as temporary:
        export = Path(temporary, "export")
        export_backbone(create_model(f"local-dir:{directory}"), export, training, tag=match["tag"], half=True)
        _take_along(directory, results, export)
        files = release.contents(export, name=name, licence=licence, data_licence=data_licence)
        row = release.row(files, name, status="bundled", file=f"bundled/{name}/{WEIGHTS}")
        _check(row, results)
        folder = catalog_path().parent / "bundled" / name
        with replacing(folder, known=EXPORT_FILES) as beside:
            release.write({each: files[each] for each in EXPORT_FILES}, beside)
            check_export(beside)
        release.keep_card(name, files)
        put_row(row)
    return row, folder, golden.distance(config["spd"]["golden"], row.golden or [])


def _take_along(directory: Path, results: Path | None, export: Path) -> None:
    for source, name in ((results or directory / RESULTS, RESULTS), (directory / PREVIEW, PREVIEW)):
        if source.is_file():
            shutil.copyfile(source, export / name)
        elif source == results:
            raise SpdError(f"{results} is not a file; give the results.json that python -m eval wrote")


def _check(row: Row, results: Path | None) -> None:
    check_row(row)
    assert row.bytes is not None
    if row.bytes > LIMIT:
        raise SpdError(
            f"{row.name} has {row.bytes / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB that the package may carry; "
            "publish it on the Hub instead"
        )
    if results is not None and row.results is None:
        raise SpdError(
            f"{results} has no complete result of sha256 {row.sha256}, the bundled file; bundle it without results, "
            f"run python -m eval --weights {row.name} …, then bundle it again with what that wrote"
        )
