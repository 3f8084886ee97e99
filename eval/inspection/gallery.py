"""gallery.html: one self-contained page of all photographs, the most anomalous first."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spd_weights.files import write_text

from .scores import Row, not_written

SHOWN = 200  # pictures on a page; a thousand would make it too large for a browser
GALLERY = "gallery.html"


def write_gallery(out: Path, rows: Sequence[Row], run: dict[str, Any]) -> Path:
    """Render `out`/gallery.html with the pictures inside it.

    Args:
        out: The folder of the pictures.
        rows: As in scores.jsonl.
        run: As in run.json.

    Returns:
        The path of the page.

    Raises:
        SpdError: It cannot be written.
    """
    scored = sorted((row for row in rows if row["score"] is not None), key=lambda row: -row["score"])
    page = _template().render(
        shown=scored[:SHOWN],
        hidden=scored[SHOWN:],
        above=sum(bool(row["above"]) for row in scored),
        count=len(scored),
        errors=[row["error"] for row in rows if row["error"]],
        threshold=run["threshold"],
        about=run["detector"],
        picture=lambda row: _data_uri(out / row["picture"]),
    )
    try:
        write_text(out / GALLERY, page)
    except OSError as error:
        raise not_written(out, error) from error
    return out / GALLERY


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(GALLERY)


def _data_uri(path: Path) -> str | None:
    """A JPEG as a data URI; None if somebody has deleted it."""
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None
