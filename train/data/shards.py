"""Images in shards, read in place: parquet files, local or on the Hub, and local webdataset tars.

Nothing is copied, and there is no index of images. A layout lists the groups of each shard (the row groups of
a parquet file, or a whole tar) with their row counts. A group is read when one of its images is first needed.
"""

import functools
import os
import sys
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem

from spd_weights.errors import SpdError
from spd_weights.images import IMAGE_SUFFIXES

T = TypeVar("T")
_WAITS = (1, 2, 4, 8, 16, 32, 64)  # seconds, on top of huggingface_hub's own retries of each request
_PERMANENT = (401, 403, 404, 410)  # status codes that waiting does not change
_BUFFER = 8 << 20  # bytes of encoded images held in memory per image of a batch, over all processes


@dataclass
class Layout:
    """Contents of a collection of shards; JSON-ready."""

    kind: str
    """"parquet" or "webdataset"."""
    files: list[str]
    """Local paths, or hf:// URLs with a commit."""
    sizes: list[int]
    """Size of each file in bytes."""
    groups: list[tuple[int, int, int]]
    """(file, row group within it or -1, rows) of each group, in order."""
    group_bytes: float
    """Mean size of a group in memory, in bytes."""
    image: str
    """Name of the image column."""
    label: str | None
    """Name of the label column, if labels are requested."""
    names: list[str]
    """Name of each class."""
    values: list[int | str] | None
    """Stored label of each class; None if the stored labels are class numbers."""


class Shards:
    """A table of images in shards, with the part of the interface of `datasets.Dataset` that training needs.

    `table[index]` is a row, {"image": {"bytes", "path"}, "label"}; `table[[index, …]]` has a list per column.
    The path names the shard, the row and the image.
    """

    def __init__(self, layout: Layout) -> None:
        """Wrap a layout from `train.data.sources`; nothing is read yet."""
        self.layout = layout
        self.counts = np.array([rows for _, _, rows in layout.groups], np.int64)
        self.ends = np.cumsum(self.counts)
        self.features = {"image": datasets.Image(decode=False)}
        if layout.label:
            self.features["label"] = datasets.ClassLabel(names=layout.names)
        self.numbers = None if layout.values is None else {value: i for i, value in enumerate(layout.values)}
        self.open: OrderedDict[int, Callable[[int], tuple[bytes, str, Any]]] = OrderedDict()
        self.keep = 2
        self.footers: dict[int, pq.FileMetaData] = {}

    def __len__(self) -> int:
        """Number of images."""
        return int(self.ends[-1])

    @property
    def revision(self) -> str | None:
        """The commit at which a Hub repository is read; None for local files."""
        first = self.layout.files[0]
        return first.partition("@")[2].partition("/")[0] if first.startswith("hf://") else None

    def strands(self, batch_size: int) -> int:
        """Number of strands of an epoch's order that a batch is read from: a divisor of the batch size.

        It is as large as memory allows. More strands mix the images better, and fewer processes share a group.
        """
        limit = batch_size * _BUFFER / max(1.0, self.layout.group_bytes)
        return max([d for d in range(1, batch_size + 1) if batch_size % d == 0 and d <= limit], default=1)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Read one row, or the columns of several rows.

        Raises:
            SpdError: a shard cannot be read, even after several attempts.
        """
        if isinstance(index, int):
            return {name: column[0] for name, column in self._rows([index]).items()}
        # The next batch needs mostly the same groups. One more holds the replacement of a bad image.
        self.keep = len(np.unique(np.searchsorted(self.ends, index, side="right"))) + 1
        return self._rows(index)

    def _rows(self, indices: list[int]) -> dict[str, Any]:
        images, labels = [], []
        for index in indices:
            group = int(np.searchsorted(self.ends, index, side="right"))
            if group not in self.open:
                self.open[group] = self._read(group)
                while len(self.open) > self.keep:
                    self.open.popitem(last=False)
            self.open.move_to_end(group)
            row = int(index - self.ends[group] + self.counts[group])
            content, name, label = self.open[group](row)
            if self.layout.label and label is None:
                content, name = b"", name or "it has no label"  # decoding will fail, with this reason
            file, within, _ = self.layout.groups[group]
            where = f"{self.layout.files[file]}, row {row}" + (f" of row group {within}" if within >= 0 else "")
            images.append({"bytes": content, "path": f"{where} ({name})" if name else where})
            labels.append(0 if label is None else label if self.numbers is None else self.numbers[label])
        return {"image": images, **({"label": labels} if self.layout.label else {})}

    def _read(self, group: int) -> Callable[[int], tuple[bytes, str, Any]]:
        """Read a group; returns a function from a row to its content, name and label."""
        file, within, _ = self.layout.groups[group]
        path = self.layout.files[file]
        if self.layout.kind == "webdataset":
            return functools.partial(_tar_row, path, tar_rows(path, self.layout.label))
        columns = [self.layout.image, *([self.layout.label] if self.layout.label else [])]

        def read() -> pa.Table:
            shard = open_parquet(path, self.layout.sizes[file], self.footers.get(file))
            self.footers[file] = shard.metadata
            return shard.read_row_group(within, columns=columns, use_threads=False)

        try:
            table = read_with_retries(read, path)
        except _Damaged as error:
            return functools.partial(_no_row, f"the row group is damaged: {error}")
        labels = table.column(self.layout.label) if self.layout.label else None
        return functools.partial(_parquet_row, table.column(self.layout.image), labels)


class _Damaged(Exception):
    """A part of a shard arrived, but its content is damaged."""


def _no_row(reason: str, row: int) -> tuple[bytes, str, Any]:
    return b"", reason, None


def _parquet_row(images: pa.ChunkedArray, labels: pa.ChunkedArray | None, row: int) -> tuple[bytes, str, Any]:
    value = images[row].as_py()
    content, name = (value["bytes"], value.get("path")) if isinstance(value, dict) else (value, None)
    return content or b"", name or "", None if labels is None else labels[row].as_py()


def _tar_row(path: str, rows: list[tuple[str, int, int, Any]], row: int) -> tuple[bytes, str, Any]:
    name, offset, size, label = rows[row]
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size), name, label


def tar_rows(path: str, label: str | None) -> list[tuple[str, int, int, Any]]:
    """List name, offset, size and label of each image in a webdataset tar, reading only headers and labels.

    Raises:
        SpdError: the file is not a tar, or is cut short.
    """
    rows: list[tuple[str, int, int, Any]] = []
    labels: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if not member.isfile():
                    continue
                if label and extension == label:
                    text = tar.extractfile(member).read().decode().strip()
                    labels[f"{folder}/{stem}"] = int(text) if text.lstrip("-").isdigit() else text
                elif Path(base).suffix.lower() in IMAGE_SUFFIXES:
                    rows.append((member.name, member.offset_data, member.size, f"{folder}/{stem}"))
            if tar.offset > os.path.getsize(path) - tarfile.BLOCKSIZE:  # tarfile accepts any end of file
                raise tarfile.ReadError("it is cut short")
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise SpdError(f"{path}: the shard is damaged: {error}; fetch it again") from error
    return [(name, offset, size, labels.get(key)) for name, offset, size, key in rows]


def open_parquet(path: str, size: int | None = None, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a local shard or one on the Hub; of a Hub file, only the needed byte ranges are read."""
    if not path.startswith("hf://"):
        return pq.ParquetFile(path, metadata=footer)
    known = {} if size is None else {"size": size}
    return pq.ParquetFile(HfFileSystem().open(path, "rb", cache_type="none", **known), metadata=footer)


def read_with_retries(read: Callable[[], T], path: str) -> T:
    """Call `read` until it succeeds. Reads from the Hub are repeated for about two minutes, local ones are not.

    Raises:
        SpdError: the Hub cannot be reached, or the file does not exist.
        _Damaged: the content is damaged; from the Hub, four times in a row.
    """
    waits = _WAITS if path.startswith("hf://") else ()
    for attempt, wait in enumerate((*waits, None)):
        try:
            return read()
        except Exception as error:  # fsspec, huggingface_hub, httpx and pyarrow share no base class
            # How pyarrow reports garbled data. System errors have an errno, and the Hub's have their own classes.
            garbled = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
            if garbled and (wait is None or attempt == 3):
                raise _Damaged(str(error)) from error
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if wait is None or status in _PERMANENT or isinstance(error, FileNotFoundError):
                raise SpdError(
                    f"{path} could not be read: {reason}. Run the same command again to resume from the newest "
                    "checkpoint."
                ) from error
            print(f"{path}: {reason}; retrying in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise AssertionError("unreachable")
