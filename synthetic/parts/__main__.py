"""`python -m synthetic.parts --to DIR`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from spd_weights.errors import SpdError
from synthetic.parts.dataset import Arguments, picture_count, write
from synthetic.parts.render import OBJECTS

_EPILOG = """
The folder is laid out exactly as VisA's, so whatever reads VisA reads it:

  DIR/<object>/Data/Images/{Normal,Anomaly}/*.JPG
  DIR/<object>/Data/Masks/Anomaly/*.png     8-bit, the number of the defect's kind, 0 where flawless
  DIR/<object>/image_anno.csv               image,label,mask
  DIR/split_csv/{1cls,2cls_highshot,2cls_fewshot}.csv

The same arguments give the same bytes. Running the command again does nothing.
The 5- and 10-shot protocols draw from 20 % of the anomalies: give --anomalies 50 for 10 shots.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    defaults = Arguments()
    parser = argparse.ArgumentParser(
        prog="python -m synthetic.parts",
        description="Render a small inspection data set with exact defect masks, in VisA's folder layout.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to write it; absent or empty")
    parser.add_argument(
        "--objects",
        nargs="+",
        default=list(defaults.objects),
        metavar="NAME",
        help=f"some of {', '.join(OBJECTS)}",
    )
    for name, meaning in (
        ("train", "normal pictures an object to train on in 1cls"),
        ("test-normal", "further normal pictures an object, tested on in 1cls"),
        ("anomalies", "pictures with a defect an object"),
        ("size", "shorter side in pixels; the longer one is VisA's aspect ratio"),
        ("seed", "another seed gives other pictures"),
    ):
        value = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{meaning} ({value})")
    options = vars(parser.parse_args(argv))
    directory = options.pop("to")
    arguments = Arguments(**options | {"objects": tuple(options["objects"])})
    console = Console(stderr=True)
    try:
        arguments.check()
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("Rendering parts", total=picture_count(arguments))
            written = write(directory, arguments, lambda: progress.advance(task))
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    count = f"{picture_count(arguments)} pictures of {', '.join(arguments.objects)}"
    print(f"{directory}: {count}" if written else f"{directory}: already there, {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
