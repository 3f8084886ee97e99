"""`python -m train RECIPE …`, or through `accelerate launch -m train RECIPE …`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from spd_weights.errors import SpdError

from .monitor.report import write_report
from .monitor.stopping import INTERRUPTED, Stopped
from .recipes import RECIPES, to_json

_DESCRIPTION = """Pre-train a backbone, with or without SPot-the-Difference.

  python -m train simsiam --data.train photos/ --out runs/mine --model.arch resnet18
  accelerate launch --multi_gpu -m train simsiam --data.train hf:ILSVRC/imagenet-1k --out runs/in1k
  python -m train report runs/mine         draws the run's curves into runs/mine/report.html

The same command again goes on where the run was interrupted. RECIPE --help explains every option.
SIGTERM, SIGUSR1, Ctrl-C and --max-hours finish the step and save. Exit codes: 0 done, 2 something to mend (the
message says what), 75 stopped and saved (start it again; for a scheduler to requeue), 130 Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and turn expected failures into one message.

    Args:
        arguments: what follows `python -m train`; by default this process's own.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["report"]:
            return _report(arguments[1:])
        config = tyro.extras.subcommand_cli_from_dict(
            RECIPES,
            prog="python -m train",
            description=_DESCRIPTION,
            args=arguments,
        )
        if config.print_config:
            print(json.dumps(to_json(config), indent=2))
            return 0
        if config.preview:
            from .views.preview import write_preview

            print(write_preview(config, config.preview))
            return 0
        if config.plan:
            from .plan import plan

            said = plan(config)
            if _first():
                print(said)
            return 0
        from .loop import pretrain  # late: --help should not wait for torch

        export = pretrain(config)
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if _first():
            print(stopped, file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("interrupted at once; the same command goes on from the last checkpoint, if any", file=sys.stderr)
        return INTERRUPTED
    if _first():
        print(f"exported {export}\nload it with timm.create_model('local-dir:{export}', pretrained=True)")
    return 0


def _report(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m train report", description="Draw a run's curves into report.html.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, finished or not")
    print(write_report(parser.parse_args(arguments).run))
    return 0


def _first() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


if __name__ == "__main__":
    sys.exit(main())
