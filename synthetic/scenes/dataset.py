"""The scenes as a folder of JPEGs, complete or absent."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from spd_weights.errors import SpdError
from spd_weights.files import holds, replacing, write_json
from synthetic.scenes.render import render

VERSION = 1
"""Raised whenever the same arguments would give other files."""

_QUALITY = 92


@dataclass(frozen=True)
class Arguments:
    """What determines every byte of the folder, VERSION aside."""

    count: int = 2000
    size: int = 160
    seed: int = 0

    def check(self) -> None:
        """Raise SpdError for values that cannot make a data set."""
        for name, value, least in (("count", self.count, 1), ("size", self.size, 32), ("seed", self.seed, 0)):
            if value < least:
                raise SpdError(f"--{name} {value}: must be at least {least}")


def write(directory: Path, arguments: Arguments, advance: Callable[[], None] = lambda: None) -> bool:
    """Write the scenes, all of them or none.

    Args:
        directory: Where; must be absent, empty, or hold these very scenes.
        arguments: What to render.
        advance: Called after each scene.

    Returns:
        Whether anything was written: False if the directory already holds these very scenes.

    Raises:
        SpdError: The directory holds something else, or cannot be written.
    """
    arguments.check()
    directory = directory.absolute()
    manifest = {"made_by": "synthetic.scenes", "version": VERSION, "arguments": asdict(arguments)}
    if holds(directory, manifest, "these scenes"):
        return False
    with replacing(directory, known=()) as beside:
        for index in range(arguments.count):
            picture = Image.fromarray(render(index, seed=arguments.seed, size=arguments.size))
            picture.save(beside / f"{index:06d}.jpg", quality=_QUALITY)
            advance()
        write_json(beside / "manifest.json", manifest)
    return True
