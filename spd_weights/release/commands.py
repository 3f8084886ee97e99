"""The commands of `spd-weights` for makers of weights: publish, bundle, card, convert."""

import argparse
from pathlib import Path

from spd_weights.catalog import catalog_path, find, load_results
from spd_weights.checks import CARD, CHART, PREVIEW, RESULTS, TRAINING, WEIGHTS
from spd_weights.errors import SpdError, program, shown
from spd_weights.files import is_folder, sha256, write_text
from spd_weights.release import cards, differences, results
from spd_weights.release.bundle import bundle
from spd_weights.release.clone import (
    card_folder,
    card_paths,
    check_bundled,
    keep_card,
    put_results,
    put_row,
    remove_bundled,
    render_card,
    render_chart,
)
from spd_weights.release.contents import measured
from spd_weights.release.convert import convert
from spd_weights.release.publish import publish
from spd_weights.release.record import read_record


def publish_command(arguments: argparse.Namespace) -> None:
    """Publish an export, and print what changed, how to load it and the catalog row that pins it."""
    done = publish(
        arguments.directory, arguments.repo, arguments.private, arguments.dry_run, arguments.tag, arguments.licence,
        arguments.data_licence, dict(arguments.dataset),
    )  # fmt: skip
    for name, change in done.changes.items():
        print(f"{change:<9}  {shown(name)}")  # names of files to delete come from the Hub
    if done.row is None:
        print(f"dry run: {done.repo} is unchanged")
        return
    print(done.url)
    print(f"load: timm.create_model('hf-hub:{done.repo}@{done.tag or done.commit}', pretrained=True)")
    if arguments.update_catalog and not arguments.dry_run:
        print(f"{catalog_path()}: row {done.row.name} {put_row(done.row)}")
        put_results(done.row.name, measured(done.files))
        if folder := keep_card(done.row.name, done.files):
            print(folder)
    else:
        print(f"the catalog row that pins it:\n{done.row.as_json()}")


def bundle_command(arguments: argparse.Namespace) -> None:
    """Put an export into the package, and print where it went and how far rounding moved its features."""
    if arguments.replaces:
        check_bundled(arguments.replaces)
    row, folder, moved = bundle(
        arguments.directory, arguments.name, arguments.results, arguments.licence, arguments.data_licence
    )
    print(f"{folder}: {(row.bytes or 0) / 1e6:.1f} MB, feature norms within {moved:.0e} of the export's")
    print(f"{catalog_path()}: row {row.name}, {card_folder(row.name)}")
    if arguments.replaces not in (None, row.name):
        remove_bundled(arguments.replaces)
        print(f"removed: {arguments.replaces}")
    print(f'load: import timm, spd_weights; timm.create_model("{row.name}", pretrained=True)')
    if not load_results(row.name):
        print(f"not measured: run {program('eval')} --weights {row.name} …, then bundle again with --results")


def card_command(arguments: argparse.Namespace) -> None:
    """Render the card of an export, or every copy of a weight's card in a clone."""
    directory = Path(arguments.target)
    if is_folder(directory):
        training = read_record(directory / TRAINING)
        measured = results.read(directory / RESULTS) if (directory / RESULTS).is_file() else None
        digest, preview = sha256(directory / WEIGHTS), (directory / PREVIEW).is_file()
        write_text(directory / CARD, cards.render(training, measured, weights_sha256=digest, preview=preview))
        if entries := differences.own(measured, digest):
            write_text(directory / CHART, differences.chart(entries))
        print(directory / CARD)
        return
    if "/" in arguments.target:
        raise SpdError(
            f"{shown(arguments.target)} is not a folder; give the export/ folder of a run, or a weight's name"
        )
    row = find(arguments.target)
    text = render_card(row)
    for path in card_paths(row):
        write_text(path, text)
        print(path)
    if chart := render_chart(row):
        write_text(card_paths(row)[0].with_name(CHART), chart)


def convert_command(arguments: argparse.Namespace) -> None:
    """Convert a checkpoint to an export, and print what was dropped and how to load it."""
    done = convert(arguments.file, arguments.arch, arguments.to or arguments.file.with_suffix(""))
    if done.dropped:
        print(f"dropped, not part of the backbone: {', '.join(map(shown, done.dropped))}")
    print(f"{done.directory}\nload: timm.create_model('local-dir:{done.directory.absolute()}', pretrained=True)")
