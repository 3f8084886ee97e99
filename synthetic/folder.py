"""The command line that both generators share, and the folder they write: complete or absent."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from spd_weights.errors import SpdError, run_command
from spd_weights.files import already_written, replacing, write_json

VERSION = 2  # raised whenever the same arguments would give other files

Options = dict[str, tuple[int, int, str]]  # name: default, minimum, meaning
Arguments = dict[str, int]
Files = Iterator[tuple[str, np.ndarray | str]]  # path in the folder; pixels (uint8), or text


def write(directory: Path, name: str, arguments: Arguments, files: Callable[[Arguments], Files]) -> bool:
    """Write all files of the generator `name`, or none.

    Returns:
        False if the directory already holds these very files.

    Raises:
        SpdError: The directory holds something else or cannot be written.
    """
    directory = directory.absolute()
    if directory.name.lower() == "visa":  # results call a data set by its folder's name
        raise SpdError(f"{directory}: rendered pictures must not pass for VisA; give the folder another name")
    manifest = {"made_by": name, "version": VERSION, "arguments": arguments}
    if already_written(directory, manifest, "these pictures"):
        return False
    with replacing(directory, known=()) as beside:
        for path, content in files(arguments):
            (beside / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                (beside / path).write_text(content, encoding="utf-8", newline="")
            else:
                Image.fromarray(content).save(beside / path, **({} if path.endswith(".png") else {"quality": 92}))
        write_json(beside / "manifest.json", manifest)
    return True


def main(name: str, about: str | None, options: Options, files: Callable[[Arguments], Files]) -> int:
    """Parse the command line, write the folder, and return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to write; absent or empty")
    for option, (default, _, meaning) in options.items():
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=f"{meaning} ({default})")
    given = vars(parser.parse_args())
    arguments = {option: given[option.replace("-", "_")] for option in options}

    def command() -> None:
        for option, (_, minimum, _) in options.items():
            if arguments[option] < minimum:
                raise SpdError(f"--{option} {arguments[option]}: must be at least {minimum}")
        written = write(given["to"], name, arguments, files)
        print(f"{given['to']}: {'complete' if written else 'already there'}")

    return run_command(command, "interrupted; nothing was written")
