"""Scores on disk, one line per photograph, so that an interruption loses nothing."""

import csv
import errno
import io
import json
import os
from pathlib import Path
from typing import IO, Any

from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json, write_text

COLUMNS = ("image", "score", "above", "picture", "error")
LINES, TABLE, RUN, PICTURES = "scores.jsonl", "scores.csv", "run.json", "pictures"

Row = dict[str, Any]


class ScoreLog:
    """`scores.jsonl` and `scores.csv` of one folder; scores of an earlier, interrupted call are kept.

    Photographs that the earlier call could not read are forgotten, so that they are tried again.

    Attributes:
        rows: The latest row of each photograph, by its path.
    """

    def __init__(self, out: Path, run: dict[str, Any]) -> None:
        """Open a folder for new rows.

        Args:
            out: The folder; created if it does not exist.
            run: What the scores depend on, JSON-ready; kept as run.json. Scores of another detector are not mixed in.

        Raises:
            SpdError: The folder holds scores of another run or foreign files, or cannot be written.
        """
        self._out = out
        self.rows: dict[str, Row] = {}
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._resume(run)
            self._lines = _unbuffered(out / LINES)
            self._table = self._new_table()
        except FileExistsError:  # only mkdir raises it
            raise SpdError(f"{out}: is a file, but scores need a folder; choose another --out") from None
        except OSError as error:
            raise not_written(out, error) from error
        self._names = {Path(row["picture"]).name.casefold() for row in self.rows.values() if row["picture"]}

    def __enter__(self) -> "ScoreLog":
        """The log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close both files."""
        self._lines.close()
        self._table.close()

    def has(self, image: Path) -> bool:
        """Say whether this version of a photograph has been scored. A file that changed since has not."""
        row = self.rows.get(str(image))
        return row is not None and row["modified"] == modified(image)

    def picture_name(self, image: Path) -> str:
        """A file name for a photograph's picture that no other photograph uses."""
        if (row := self.rows.get(str(image))) and row["picture"]:
            return Path(row["picture"]).name
        stem = image.stem[:60]  # at most 240 bytes, with room for the rest of the name
        name, count = f"{stem}.jpg", 1
        while name.casefold() in self._names:  # many file systems ignore case
            count += 1
            name = f"{stem}-{count}.jpg"
        self._names.add(name.casefold())
        return name

    def add(self, row: Row) -> None:
        """Append a photograph's row to both files.

        Raises:
            SpdError: It cannot be written.
        """
        try:
            _append(self._lines, json.dumps(row) + "\n")
            _append(self._table, _csv_line(row))
        except OSError as error:
            raise not_written(self._out, error) from error
        self.rows[row["image"]] = row

    def _resume(self, run: dict[str, Any]) -> None:
        lines = self._out / LINES
        if not lines.exists():
            for name in (PICTURES, TABLE):
                if (self._out / name).exists() and not (self._out / RUN).exists():
                    raise SpdError(f"{self._out}: has {name} already, which would be overwritten; choose another --out")
            write_json(self._out / RUN, run)
            return
        if read_json(self._out / RUN) != json.loads(json.dumps(run)):
            raise SpdError(f"{self._out}: holds scores of another detector or threshold; choose another --out")
        with open(lines, "rb+") as file:
            content = file.read()
            complete = content.rfind(b"\n") + 1
            file.truncate(complete)  # the line that an interruption cut off
        try:
            rows = [json.loads(line) for line in content[:complete].decode("utf-8").splitlines()]
            latest = {row["image"]: row for row in rows}
            self.rows = {image: row for image, row in latest.items() if row["score"] is not None}
        except (ValueError, KeyError, TypeError) as error:
            raise SpdError(f"{lines}: damaged ({error}); remove it, or choose another --out") from error

    def _new_table(self) -> IO[bytes]:
        """The table is written anew, so that it agrees with the lines."""
        header = _csv_line({name: name for name in COLUMNS})
        write_text(self._out / TABLE, header + "".join(map(_csv_line, self.rows.values())))
        return _unbuffered(self._out / TABLE)


def _csv_line(row: Row) -> str:
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, extrasaction="ignore", lineterminator="\n").writerow(row)
    return line.getvalue()


def _unbuffered(path: Path) -> IO[bytes]:
    """Open for appending. On a full disk, a buffer would fail once more when it is closed."""
    return open(path, "ab", buffering=0)


def _append(file: IO[bytes], line: str) -> None:
    data = line.encode("utf-8", "backslashreplace")  # names of files need not be text
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def modified(image: Path) -> int | None:
    """When a file was last modified, in nanoseconds; None if it is gone."""
    try:
        return image.stat().st_mtime_ns
    except OSError:
        return None


def not_written(out: Path, error: OSError) -> SpdError:
    """The error to raise when an output folder cannot be written."""
    return SpdError(f"{out}: cannot be written ({error.strerror or error}); what was scored before is kept")
