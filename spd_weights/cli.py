"""The command `spd-weights`: list, fetch, verify and publish weights."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.utils.tqdm import disable_progress_bars

import spd_weights
from spd_weights import hub
from spd_weights.catalog import find, list_weights, load_catalog, load_results
from spd_weights.environment import examine
from spd_weights.errors import SpdError, in_clone, program, run_command

_EXAMPLES = """\
examples:
  spd-weights list
  spd-weights info mobilenetv2_100_spd
  spd-weights pull mobilenetv2_100_spd --to weights/mobilenet
  spd-weights pull owner/name --revision main --to weights/mine
  spd-weights verify runs/mine/export
  spd-weights publish runs/mine/export --repo owner/name --dry-run
  spd-weights pull --all --to mirror
  spd-weights convert moco_v2_800ep_pretrain.pth.tar --arch resnet50 --to weights/moco
  spd-weights train adapt --data.train photos/ --model.arch resnet18 --model.init timm --out runs/mine
  spd-weights eval fit --normal photos/ --save part.safetensors
  spd-weights doctor

Endpoint, cache, token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN (or hf auth login),
HF_HUB_OFFLINE. SPD_WEIGHTS_CATALOG names a catalog of your own.
"""


_PARTS = {
    "train": "pre-train or adapt a backbone (python -m train in a clone)",
    "eval": "evaluate weights; fit and use detectors (python -m eval in a clone)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None takes the process's.

    Returns:
        The exit code: 0, 1 if doctor finds a problem, 2 after an error the user can fix, or 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in _PARTS:
        return run_command(lambda: _run_part(argv[0], list(argv[1:])))
    arguments = _parser().parse_args(argv)
    if not sys.stderr.isatty():
        disable_progress_bars()
    return run_command(lambda: arguments.run(arguments))


def _run_part(name: str, arguments: list[str]) -> int:
    """Run `train` or `eval`, which a wheel carries as spd_train and spd_eval."""
    part = name if in_clone() else f"spd_{name}"
    try:
        module = importlib.import_module(f"{part}.__main__")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise SpdError(
            f"{name} needs {missing}, which is not installed; run pip install 'spd-weights[{name}]'"
        ) from error
    sys.argv = [f"{sys.argv[0]} {name}", *arguments]  # what the record of a run shows as its command
    code: int = module.main(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spd-weights",
        description="Backbones pre-trained for defect detection, as ordinary timm models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spd-weights {spd_weights.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_loading(commands)
    _add_release(commands)
    for name, text in _PARTS.items():
        commands.add_parser(name, help=text, add_help=False)  # listed here, run by _run_part
    command = commands.add_parser("doctor", help="check this installation; exit code 1 if something is wrong")
    command.set_defaults(run=_doctor)
    return parser


def _add_loading(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("list", help="list the weights with image AUROC and pixel AP")
    command.add_argument("--all", action="store_true", help="include planned weights")
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="show one weight: its facts, its location, its digest")
    command.add_argument("name", metavar="NAME", help="a name from spd-weights list")
    command.set_defaults(run=_info)

    command = commands.add_parser("pull", help="fetch a weight with its config and card, and verify it")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="a catalog name, or owner/name on the Hub")
    which.add_argument("--all", action="store_true", help="fetch every weight to DIR/<name>, as a mirror")
    command.add_argument("--revision", metavar="REV", help="commit, branch or tag of owner/name (default: main)")
    command.add_argument("--to", type=Path, metavar="DIR", help="copy the files there (default: the Hub's cache)")
    command.set_defaults(run=_pull)

    command = commands.add_parser("verify", help="check every byte and tensor of a weight or an export")
    command.add_argument("target", metavar="NAME|DIR", help="a name as for pull, or the folder of an export")
    command.set_defaults(run=_verify)


def _add_release(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("publish", help="publish an export as one commit, and read it back")
    command.add_argument("directory", type=Path, metavar="DIR", help="an export: runs/<run>/export")
    command.add_argument("--repo", required=True, metavar="OWNER/NAME", help="created if it does not exist")
    command.add_argument("--private", action="store_true", help="create the repository as private")
    command.add_argument("--dry-run", action="store_true", help="only show what would change")
    command.add_argument("--tag", metavar="TAG", help="tag the commit, for example v1")
    command.add_argument("--update-catalog", action="store_true", help="write the row that pins it into the catalog")
    command.add_argument(
        "--dataset", type=_pair, action="append", default=[], metavar="NAME=OWNER/ID",
        help="list the results for NAME, a dataset in results.json, on the Hub's page of dataset OWNER/ID; repeatable",
    )  # fmt: skip
    _add_licences(command)
    command.set_defaults(run=_release("publish_command"))

    command = commands.add_parser("bundle", help="put an export into the package, in half precision (in a clone)")
    command.add_argument("directory", type=Path, metavar="DIR", help="an export; of a pair, bundle _eta0 first")
    command.add_argument("--name", help="for example mobilenetv2_100_spd.adapt_steel (default: from training.json)")
    command.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help=f"results.json of {program('eval')} --weights NAME, for the bundled weight",
    )
    command.add_argument("--replaces", metavar="NAME", help="remove this bundled weight: its file, row and card")
    _add_licences(command)
    command.set_defaults(run=_release("bundle_command"))

    command = commands.add_parser("card", help="render README.md from training.json and results.json")
    command.add_argument("target", metavar="NAME|DIR", help="an export, or a weight whose card is in model_cards/")
    command.set_defaults(run=_release("card_command"))

    command = commands.add_parser("convert", help="convert another framework's checkpoint to an export")
    command.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .pth, .pt, .ckpt or .tar")
    command.add_argument("--arch", required=True, metavar="ARCH", help="its stock timm architecture, such as resnet50")
    command.add_argument("--to", type=Path, metavar="DIR", help="the export (default: FILE without its suffix)")
    command.set_defaults(run=_release("convert_command"))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=OWNER/ID, not {text}")
    return name, value


def _add_licences(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--licence", "--license", metavar="ID", help="the weights' licence in the Hub's spelling (apache-2.0)"
    )
    command.add_argument("--data-licence", "--data-license", metavar="ID", help="the training data's (cc-by-4.0)")


def _release(name: str) -> Callable[[argparse.Namespace], None]:
    """A command of the release part, which is imported only when the command runs."""

    def run(arguments: argparse.Namespace) -> None:
        from spd_weights.release import commands

        getattr(commands, name)(arguments)

    return run


_LISTED = ("image_auroc", "pixel_aupr")  # one metric of detection, one of segmentation; `info` shows all


def _list(arguments: argparse.Namespace) -> None:
    table = [("NAME", "STATUS", "MEASURED")]
    rows = list_weights(planned=arguments.all)
    for row in rows:
        lines = [_measured(entry) for entry in load_results(row.name) if entry["metric"] in _LISTED]
        table.append((row.name, row.status, lines[0] if lines else "not measured"))
        table += [("", "", line) for line in lines[1:]]
    widths = [max(len(line[column]) for line in table) for column in range(2)]
    for *cells, last in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]))
    if hidden := len(load_catalog()) - len(rows):
        print(f"{hidden} more are planned: spd-weights list --all")


def _measured(entry: Mapping[str, Any]) -> str:
    spread = "" if entry["spread"] is None else f" ± {entry['spread']:.3f}"
    return f"{entry['dataset']} {entry['protocol']} {entry['method']} {entry['metric']} {entry['value']:.3f}{spread}"


def _info(arguments: argparse.Namespace) -> None:
    row = find(arguments.name)
    print(row.as_json())
    if entries := load_results(row.name):
        print("measured:", *map(_measured, entries), sep="\n  ")
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
        raise SpdError("--all needs --to DIR, the folder of the mirror")
    rows = list_weights()
    for row in rows:
        print(hub.pull(row, to=to / row.name))
    print(f"{len(rows)} of {len(load_catalog())} weights; the others are planned.", end=" ")
    print(f"Load: local-dir:{to.absolute()}/<name>")


def _verify(arguments: argparse.Namespace) -> None:
    print(hub.verify(arguments.target))


def _doctor(_: argparse.Namespace) -> int:
    unsound = 0
    for finding in examine():
        print(f"{'ok   ' if finding.sound else 'WRONG'}  {finding.what}: {finding.says}", flush=True)
        unsound += not finding.sound
    return int(unsound > 0)
