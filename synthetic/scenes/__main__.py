"""`python -m synthetic.scenes --to DIR`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from spd_weights.errors import SpdError
from synthetic.scenes.dataset import Arguments, write

_EPILOG = """
Writes DIR/000000.jpg and so on, without labels: a folder for --data.train. The same arguments give the
same bytes, and the first scenes of a longer set are those of a shorter one. Running the command again
does nothing. For released weights use photographs; these scenes are for trying things out.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    defaults = Arguments()
    parser = argparse.ArgumentParser(
        prog="python -m synthetic.scenes",
        description="Render natural-looking scenes to pre-train on where no photographs are at hand.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to; absent or empty")
    for name, meaning in (
        ("count", "how many scenes"),
        ("size", "side in pixels"),
        ("seed", "another seed gives other scenes"),
    ):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{meaning} ({value})")
    options = vars(parser.parse_args(argv))
    directory = options.pop("to")
    arguments = Arguments(**options)
    console = Console(stderr=True)
    try:
        arguments.check()
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("Rendering scenes", total=arguments.count)
            written = write(directory, arguments, lambda: progress.advance(task))
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"{directory}: {'' if written else 'already there, '}{arguments.count} scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
