"""Weights bundled with the package: an export in half precision, its catalog row and its card, in a clone."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spd_weights import golden
from spd_weights.catalog import NAME, Row, catalog_path
from spd_weights.checks import CONFIG, EXPORT_FILES, PREVIEW, RESULTS, TRAINING, WEIGHTS, check_export, load_export
from spd_weights.errors import SpdError, program, shown
from spd_weights.files import read_json, replacing
from spd_weights.release.clone import card_folder, check_row, keep_card, put_results, put_row
from spd_weights.release.contents import contents, measured, write
from spd_weights.release.contents import row as make_row
from spd_weights.release.export import export_backbone
from spd_weights.release.record import read_record

LIMIT = 12 * 10**6  # bytes; everyone downloads them with `pip install`


def bundle(
    directory: Path,
    name: str | None = None,
    results: Path | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> tuple[Row, Path, float]:
    """Put an export into the package: `bundled/<name>/` beside the catalog, a catalog row, and model_cards/<name>/.

    Kernels and matrices are rounded to float16. The result is another file than the export, with its own digest and
    golden features, so results measured with the export do not count: evaluate the weight under its new name, then
    bundle again with those results. The same input gives the same files.

    Args:
        directory: The export.
        name: `<architecture>_spd.<tag>`; None derives it from the training record.
        results: A results.json of `python -m eval`; None takes the export's own, if it has one.
        licence: The weights' licence in the Hub's spelling; None keeps the training record's.
        data_licence: The training data's licence, likewise.

    Returns:
        The row, the folder that loads with `local-dir:`, and the largest relative difference between the norms of
        its feature maps and the export's.

    Raises:
        SpdError: The export is not sound or too large, the name or the results do not belong to it, or there is
            no clone to put it into.
    """
    config, backbone = load_export(directory)
    training = read_record(directory / TRAINING)
    architecture = config["architecture"]
    name = name or f"{architecture}_spd.{config['pretrained_cfg']['tag']}"
    match = NAME.fullmatch(name)
    if match is None or match["architecture"] != architecture:
        raise SpdError(f"'{shown(name)}' is not a possible name; give --name {architecture}_spd.<method>_<data>[_eta0]")
    if card_folder(name) is None:
        raise SpdError(f"{catalog_path()} is not in a clone: there is no model_cards/ beside its folder")
    with TemporaryDirectory() as temporary:
        export = Path(temporary, "export")
        export_backbone(backbone, export, training, tag=match["tag"], half=True)
        _copy_extras(directory, results, export)
        files = contents(export, name=name, licence=licence, data_licence=data_licence)
        row = make_row(files, name, status="bundled", file=f"bundled/{name}/{WEIGHTS}")
        entries = measured(files)
        _check(row, entries, results)
        folder = catalog_path().parent / "bundled" / name
        with replacing(folder, known=EXPORT_FILES) as beside:
            write({each: files[each] for each in EXPORT_FILES}, beside)
            check_export(beside)
        keep_card(name, files)
        put_row(row)
        put_results(name, entries)
        rounded = read_json(folder / CONFIG)
    return row, folder, golden.distance(config["spd"]["golden"], rounded["spd"]["golden"])


def _copy_extras(directory: Path, results: Path | None, export: Path) -> None:
    for source, name in ((results or directory / RESULTS, RESULTS), (directory / PREVIEW, PREVIEW)):
        if source.is_file():
            shutil.copyfile(source, export / name)
        elif source == results:
            raise SpdError(f"{results} is not a file; give a results.json of {program('eval')}")


def _check(row: Row, entries: list[dict[str, Any]], results: Path | None) -> None:
    check_row(row)
    assert row.bytes is not None
    if row.bytes > LIMIT:
        raise SpdError(
            f"{row.name} has {row.bytes / 1e6:.1f} MB; the limit for bundled weights is {LIMIT / 1e6:.0f} MB; "
            "publish it on the Hub instead"
        )
    if results is not None and not entries:
        raise SpdError(
            f"{results} has no complete result of sha256 {row.sha256}, the bundled file; bundle it without results, "
            f"run {program('eval')} --weights {row.name} …, then bundle it again with its results"
        )
