"""Images in shards, read where they lie: parquet files, here or on the Hub, and webdataset tars.

Nothing is copied and nothing is indexed image by image: a layout lists the groups that shards fall into
(a parquet file's row groups, a tar as a whole) with their row counts, and a group is read when its first
image is asked for.
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
_WAITS = (1, 2, 4, 8, 16, 32, 64)  # seconds; huggingface_hub tries each request several times by itself
_FINAL = (401, 403, 404, 410)  # answers of the Hub that waiting does not change
_BUFFER = 8 << 20  # bytes of encoded images that may be held at once for each image of a batch, over all processes


@dataclass
class Layout:
    """What a collection of shards holds; JSON-ready."""

    kind: str
    """"parquet" or "webdataset"."""
    files: list[str]
    """Local paths, or hf:// URLs that name a commit."""
    sizes: list[int]
    """Bytes of each file."""
    groups: list[tuple[int, int, int]]
    """(file, row group in it, rows) of each group, in order."""
    group_bytes: float
    """Mean bytes that reading a group brings into memory."""
    image: str
    """The images' column."""
    label: str | None
    """The labels' column, if labels are asked for."""
    names: list[str]
    """The classes' names, in the order of their numbers."""
    values: list[int | str] | None
    """How labels are stored, in the same order; None where numbers are."""


class Shards:
    """A table of images in shards, with as much of the interface of `datasets.Dataset` as training needs.

    `table[index]` is a row, {"image": {"bytes", "path"}, "label"}; `table[[index, …]]` is columns of them.
    The path says where the image lies: shard, row, and its own name.
    """

    def __init__(self, layout: Layout) -> None:
        """Take a layout from `train.data.sources`; nothing is read yet."""
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
        """The commit that a Hub repository is read at."""
        first = self.layout.files[0]
        return first.partition("@")[2].partition("/")[0] if first.startswith("hf://") else None

    def strands(self, batch_size: int) -> int:
        """How many places of an epoch's order a batch is read from side by side: a divisor of the batch size.

        As many as memory allows: the more, the better mixed, and the fewer processes share a group.
        """
        most = batch_size * _BUFFER / max(1.0, self.layout.group_bytes)
        return max([d for d in range(1, batch_size + 1) if batch_size % d == 0 and d <= most], default=1)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Read a row, or columns of rows.

        Raises:
            SpdError: a shard cannot be reached, after several tries.
        """
        if isinstance(index, int):
            return {name: column[0] for name, column in self._rows([index]).items()}
        # The next batch needs most of the same groups; one more for the neighbour of a bad image.
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
                content, name = b"", name or "it has no label"  # decoding fails, with this reason
            file, within, _ = self.layout.groups[group]
            where = f"{self.layout.files[file]}, row {row}" + (f" of row group {within}" if within >= 0 else "")
            images.append({"bytes": content, "path": f"{where} ({name})" if name else where})
            labels.append(0 if label is None else label if self.numbers is None else self.numbers[label])
        return {"image": images, **({"label": labels} if self.layout.label else {})}

    def _read(self, group: int) -> Callable[[int], tuple[bytes, str, Any]]:
        """A function from a row of the group to its content, name and label."""
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
            table = patiently(read, path)
        except _Damaged as error:
            return functools.partial(_no_row, f"the row group is damaged: {error}")
        labels = table.column(self.layout.label) if self.layout.label else None
        return functools.partial(_parquet_row, table.column(self.layout.image), labels)


class _Damaged(Exception):
    """A part of a shard that came, but is not what was written."""


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
    """Name, offset, size and label of each image in a webdataset tar; only headers and labels are read.

    Raises:
        SpdError: it is no tar, or cut short.
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
            if tar.offset > os.path.getsize(path) - tarfile.BLOCKSIZE:  # tarfile takes any end for the end
                raise tarfile.ReadError("it is cut short")
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise SpdError(f"{path}: the shard is damaged: {error}; fetch it again") from error
    return [(name, offset, size, labels.get(key)) for name, offset, size, key in rows]


def open_parquet(path: str, size: int | None = None, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a shard here or on the Hub; a Hub file is read by ranges, as they are asked for."""
    if not path.startswith("hf://"):
        return pq.ParquetFile(path, metadata=footer)
    known = {} if size is None else {"size": size}
    return pq.ParquetFile(HfFileSystem().open(path, "rb", cache_type="none", **known), metadata=footer)


def patiently(read: Callable[[], T], path: str) -> T:
    """Call `read` until it succeeds; what is on the Hub is tried for minutes.

    Raises:
        SpdError: the Hub stayed out of reach, or the file is gone.
        _Damaged: what came could not be read, several times where it came from the Hub.
    """
    waits = _WAITS if path.startswith("hf://") else ()
    for tries, wait in enumerate((*waits, None)):
        try:
            return read()
        except Exception as error:  # fsspec's, huggingface_hub's and httpx's own kinds, and pyarrow's
            # What pyarrow says of garbled data; system errors have a number, and the Hub's a class of their own.
            garbled = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
            if garbled and (wait is None or tries == 3):
                raise _Damaged(str(error)) from error
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if wait is None or status in _FINAL or isinstance(error, FileNotFoundError):
                raise SpdError(
                    f"{path} could not be read: {reason}. The same command goes on from the newest checkpoint."
                ) from error
            print(f"{path}: {reason}; again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise AssertionError("unreachable")
