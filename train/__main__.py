"""`python -m train RECIPE …`, or through `accelerate launch -m train RECIPE …`."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from spd_weights.errors import SpdError, program, run_command
from spd_weights.files import read_json

from .config import Config
from .monitor.stopping import Stopped
from .recipes import RECIPES, from_json, to_json

_DESCRIPTION = """Pre-train a backbone, with or without SPot-the-Difference.

  python -m train simsiam --data.train photos/ --out runs/mine --model.arch resnet18
  accelerate launch --multi_gpu -m train simsiam --data.train hf:ILSVRC/imagenet-1k --out runs/in1k
  python -m train --config runs/mine/config.json --seed 1 --out runs/other      the same settings with another seed

Run the same command again to resume an interrupted run. RECIPE --help explains every option.
SIGTERM, SIGUSR1, Ctrl-C and --max-hours finish the current step, save and exit. Exit codes: 0 finished, 1 another
process was lost, 2 an error that you can fix (the message says how), 75 stopped and saved (run it again; a scheduler
should requeue it), 130 Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and report expected failures in one message.

    Args:
        arguments: what follows `python -m train`; by default this process's own.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(
        lambda: _run(arguments),
        interrupted="interrupted without saving; run the same command again to resume from the last checkpoint, if any",
    )


def _run(arguments: Sequence[str]) -> int:
    config = _parse(arguments)
    if config.print_config:
        print(json.dumps(to_json(config), indent=2))
    elif config.preview:
        from .views.preview import write_preview

        print(write_preview(config, config.preview))
    elif config.plan:
        from .plan import plan

        estimate = plan(config)
        if _is_first_process():
            print(estimate)
    else:
        return _pretrain(config)
    return 0


def _parse(arguments: Sequence[str]) -> Config:
    if len(arguments) > 1 and arguments[0] == "--config":
        path, *changes = arguments[1:]
        try:
            start = from_json(read_json(Path(path)))
        except SpdError as error:
            raise SpdError(f"--config {path}: {error}") from None
        return tyro.cli(type(start), default=start, prog=program(f"train --config {path}"), args=changes)
    description = _DESCRIPTION.replace("python -m train", program("train")).replace("-m train", f"-m {__package__}")
    return tyro.extras.subcommand_cli_from_dict(RECIPES, prog=program("train"), description=description, args=arguments)


def _pretrain(config: Config) -> int:
    from .loop import pretrain  # imported late so that --help need not wait for datasets and accelerate

    try:
        export = pretrain(config)
    except Stopped as stopped:
        if _is_first_process():
            print(stopped, file=sys.stderr)
        return stopped.code
    if _is_first_process():
        print(f"exported {export}\nload it with timm.create_model('local-dir:{export}', pretrained=True)")
    return 0


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


if __name__ == "__main__":
    sys.exit(main())
