"""The command `spd-weights`: look, fetch, verify, publish."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils.tqdm import disable_progress_bars

from spd_weights import hub
from spd_weights.catalog import card_folder, catalog_path, find, load_catalog, put_row
from spd_weights.doctor import examine
from spd_weights.errors import SpdError
from spd_weights.files import is_folder, read_json, sha256, write_text
from spd_weights.release import cards, results
from spd_weights.release import contents as release
from spd_weights.release.bundle import bundle
from spd_weights.release.convert import convert
from spd_weights.release.export import CARD, PREVIEW, RESULTS, TRAINING, WEIGHTS
from spd_weights.release.publish import publish

_EXAMPLES = """\
examples:
  spd-weights list
  spd-weights info resnet50_spd.simsiam_in1k
  spd-weights pull resnet50_spd.simsiam_in1k --to weights/simsiam
  spd-weights pull owner/name --revision main --to weights/mine
  spd-weights verify runs/mine/export
  spd-weights publish runs/mine/export --repo owner/name --dry-run
  spd-weights pull --all --to mirror
  spd-weights convert moco_v2_800ep_pretrain.pth.tar --arch resnet50 --to weights/moco
  spd-weights doctor

The endpoint, the cache, the token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN (or
hf auth login), HF_HUB_OFFLINE. SPD_WEIGHTS_CATALOG names a catalog of your own.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None takes the process's.

    Returns:
        The exit code: 0, 1 where doctor finds something to mend, or 2 after an error that the user can mend.
    """
    arguments = _parser().parse_args(argv)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        code = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spd-weights",
        description="Backbones that see small defects, as ordinary timm models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="every weight, its status, image AUROC and pixel AP")
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="one weight: what it is, where it is, its digest")
    command.add_argument("name", metavar="NAME", help="as spd-weights list prints it")
    command.set_defaults(run=_info)

    command = commands.add_parser("pull", help="fetch a weight with config and card, and verify it")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="a name of the catalog, or owner/name on the Hub")
    which.add_argument("--all", action="store_true", help="every weight there is, each to DIR/<name>: a mirror")
    command.add_argument("--revision", metavar="REV", help="commit, branch or tag of owner/name (default: main)")
    command.add_argument("--to", type=Path, metavar="DIR", help="copy it there (default: the Hub's cache)")
    command.set_defaults(run=_pull)

    command = commands.add_parser("verify", help="check every byte and tensor of a weight or an export")
    command.add_argument("target", metavar="NAME|DIR", help="a name as for pull, or the folder of an export")
    command.set_defaults(run=_verify)

    command = commands.add_parser("publish", help="publish an export as one commit, and read it back")
    command.add_argument("directory", type=Path, metavar="DIR", help="an export: runs/<run>/export")
    command.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made if it is not there")
    command.add_argument("--private", action="store_true", help="make the repository private")
    command.add_argument("--dry-run", action="store_true", help="only say what would change")
    command.add_argument("--tag", metavar="TAG", help="mark the commit with a tag, such as v1")
    command.add_argument("--update-catalog", action="store_true", help="write the row that pins it into the catalog")
    _add_licences(command)
    command.set_defaults(run=_publish)

    command = commands.add_parser(
        "bundle", help="put an export into the package itself, in half precision (in a clone)"
    )
    command.add_argument("directory", type=Path, metavar="DIR", help="an export; the one without SPD of a pair first")
    command.add_argument("--name", help="such as mobilenetv2_100_spd.adapt_steel (default: by the training record)")
    command.add_argument(
        "--results", type=Path, metavar="FILE", help="results.json of python -m eval --weights NAME, once bundled"
    )
    _add_licences(command)
    command.set_defaults(run=_bundle)

    command = commands.add_parser("card", help="render README.md from training.json and results.json beside it")
    command.add_argument("target", metavar="NAME|DIR", help="an export, or a weight whose card is in model_cards/")
    command.set_defaults(run=_card)

    command = commands.add_parser("convert", help="turn a checkpoint of other code into an export")
    command.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .pth, .pt, .ckpt or .tar")
    command.add_argument("--arch", required=True, metavar="ARCH", help="its stock timm architecture, such as resnet50")
    command.add_argument("--to", type=Path, metavar="DIR", help="the export (default: FILE without its suffix)")
    command.set_defaults(run=_convert)

    command = commands.add_parser("doctor", help="say what is wrong with this installation (exit code 1)")
    command.set_defaults(run=_doctor)
    return parser


def _add_licences(command: argparse.ArgumentParser) -> None:
    command.add_argument("--licence", metavar="ID", help="of the weights, as the Hub spells it, such as apache-2.0")
    command.add_argument("--data-licence", metavar="ID", help="of the training data, such as cc-by-4.0")


_LISTED = ("image_auroc", "pixel_aupr")  # one of detection, one of segmentation; `info` has all


def _list(_: argparse.Namespace) -> None:
    table = [("NAME", "STATUS", "WITHOUT SPD", "MEASURED")]
    for row in load_catalog().values():
        measured = [
            f"{entry['dataset']} {entry['protocol']} {entry['method']} {entry['metric']} {entry['value']:.3f}"
            + (f" ± {entry['spread']:.3f}" if entry["spread"] is not None else "")
            for entry in row.results or []
            if entry["metric"] in _LISTED
        ]
        lines = measured or ["not measured"]
        table.append((row.name, row.status, row.counterpart or ("itself" if row.spd_weight == 0 else "none"), lines[0]))
        table += [("", "", "", line) for line in lines[1:]]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    for *cells, last in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]))


def _info(arguments: argparse.Namespace) -> None:
    row = find(arguments.name)
    print(row.as_json())
    print(f"train: {row.command}")
    if row.status != "planned":
        print(f'load:  import timm, spd_weights; timm.create_model("{row.name}", pretrained=True)')
    if row.repo is not None:
        print(f'       timm.create_model("hf-hub:{row.repo}@{row.revision}", pretrained=True), without this package')


def _pull(arguments: argparse.Namespace) -> None:
    if arguments.all:
        _pull_all(arguments.to)
        return
    folder = hub.pull(arguments.name, revision=arguments.revision, to=arguments.to)
    print(f"{folder}\nload: timm.create_model('local-dir:{folder.absolute()}', pretrained=True)")


def _pull_all(to: Path | None) -> None:
    if to is None:
        raise SpdError("--all needs --to DIR, the folder that becomes the mirror")
    rows = load_catalog().values()
    there = [row for row in rows if row.status != "planned"]
    for row in there:
        print(hub.pull(row, to=to / row.name))
    print(f"{len(there)} of {len(rows)} weights; the others are planned. Load: local-dir:{to.absolute()}/<name>")


def _verify(arguments: argparse.Namespace) -> None:
    print(hub.verify(arguments.target))


def _publish(arguments: argparse.Namespace) -> None:
    done = publish(
        arguments.directory, arguments.repo, arguments.private, arguments.dry_run, arguments.tag, arguments.licence,
        arguments.data_licence,
    )  # fmt: skip
    for name, change in done.changes.items():
        print(f"{change:<9}  {name}")
    if done.row is None:
        print(f"dry run: {done.repo} is as it was")
        return
    print(done.url)
    print(f"load: timm.create_model('hf-hub:{done.repo}@{done.tag or done.commit}', pretrained=True)")
    if arguments.update_catalog and not arguments.dry_run:
        print(f"{catalog_path()}: row {done.row.name} {put_row(done.row)}")
        if folder := release.keep_card(done.row.name, done.files):
            print(folder)
    else:
        print(f"the catalog row that pins it:\n{done.row.as_json()}")


def _bundle(arguments: argparse.Namespace) -> None:
    row, folder, moved = bundle(
        arguments.directory, arguments.name, arguments.results, arguments.licence, arguments.data_licence
    )
    print(f"{folder}: {(row.bytes or 0) / 1e6:.1f} MB, norms of its feature maps within {moved:.0e} of the export's")
    print(f"{catalog_path()}: row {row.name}, {card_folder(row.name)}")
    print(f'load: import timm, spd_weights; timm.create_model("{row.name}", pretrained=True)')
    if row.results is None:
        print(f"not measured: run python -m eval --weights {row.name} …, then this again with --results")


def _card(arguments: argparse.Namespace) -> None:
    directory = Path(arguments.target)
    if is_folder(directory):
        training = read_json(directory / TRAINING)
        measured = results.read(directory / RESULTS) if (directory / RESULTS).is_file() else None
        digest, preview = sha256(directory / WEIGHTS), (directory / PREVIEW).is_file()
        write_text(directory / CARD, cards.render(training, measured, weights_sha256=digest, preview=preview))
        print(directory / CARD)
        return
    row = find(arguments.target)
    text = release.card_again(row)
    bundled = [(catalog_path().parent / str(row.file)).with_name(CARD)] if row.status == "bundled" else []
    for path in (catalog_path().parent.parent / "model_cards" / row.name / CARD, *bundled):
        write_text(path, text)
        print(path)


def _convert(arguments: argparse.Namespace) -> None:
    done = convert(arguments.file, arguments.arch, arguments.to or arguments.file.with_suffix(""))
    if done.dropped:
        print(f"dropped, not the backbone's: {', '.join(done.dropped)}")
    print(f"{done.directory}\nload: timm.create_model('local-dir:{done.directory.absolute()}', pretrained=True)")


def _doctor(_: argparse.Namespace) -> int:
    unsound = 0
    for finding in examine():
        print(f"{'ok   ' if finding.sound else 'WRONG'}  {finding.what}: {finding.says}", flush=True)
        unsound += not finding.sound
    return int(unsound > 0)
