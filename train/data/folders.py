"""Folders of image files: listed once, and then read through the listing."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from spd_weights.errors import SpdError
from spd_weights.images import IMAGE_SUFFIXES


@dataclass
class Listing:
    """Image files of a folder; JSON-ready."""

    kind: str
    """"files"."""
    folder: str
    """Absolute path."""
    files: list[str]
    """Paths relative to the folder, in a fixed order."""
    modified: dict[str, int]
    """Modification time of each subfolder in ns; it changes when a file is added, removed or renamed."""
    labelled: bool
    """Whether the name of a file's first subfolder is its label."""

    def is_current(self) -> bool:
        """Whether no file was added, removed or renamed since; files that were overwritten do not count."""
        try:
            return all(os.stat(Path(self.folder, name)).st_mtime_ns == time for name, time in self.modified.items())
        except OSError:
            return False


class Files:
    """A table of image files, with the part of the interface of `datasets.Dataset` that training needs.

    `table[index]` is a row, {"image": {"bytes": None, "path"}, "label"}; `table[[index, …]]` has a list per column.
    """

    def __init__(self, layout: Listing) -> None:
        """Wrap a listing from `list_images`."""
        self.layout = layout
        # Arrow and NumPy hold no Python objects, whose reference counts would copy the list into every worker.
        self.paths = pa.array(layout.files)
        self.features = {"image": datasets.Image(decode=False)}
        self.labels = None
        if layout.labelled:
            names, self.labels = np.unique([name.partition("/")[0] for name in layout.files], return_inverse=True)
            self.features["label"] = datasets.ClassLabel(names=names.tolist())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """One row, or the columns of several rows; no file is opened."""
        if isinstance(index, int):
            return {name: column[0] for name, column in self[[index]].items()}
        paths = [os.path.join(self.layout.folder, name) for name in self.paths.take(pa.array(index)).to_pylist()]
        columns: dict[str, Any] = {"image": [{"bytes": None, "path": path} for path in paths]}
        return columns if self.labels is None else {**columns, "label": self.labels[index].tolist()}


def find_files(folder: Path, suffixes: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """Search a folder once, subfolders and links to folders included; hidden files and folders are left out.

    Args:
        folder: an existing folder.
        suffixes: in lower case, with their dots.

    Returns:
        Paths relative to the folder, in a fixed order, and the modification time of each searched folder in ns.
    """
    files: list[str] = []
    modified: dict[str, int] = {}
    visited = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        status, below = os.stat(parent), os.path.relpath(parent, folder)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was searched before
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        modified[below] = status.st_mtime_ns
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found = [name for name in sorted(names) if os.path.splitext(name)[1].lower() in suffixes and name[0] != "."]
        files += found if below == "." else [f"{below}/{name}" for name in found]
    return files, modified


def list_images(folder: Path, files: list[str], modified: dict[str, int], labelled: bool) -> Listing:
    """Make a listing of what `find_files` found.

    Raises:
        SpdError: there is no image, or one that is not in a subfolder although labels are requested.
    """
    if not files:
        raise SpdError(
            f"{folder}: no images in this folder or its subfolders; looked for "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, .parquet and .tar"
        )
    if labelled and (bare := next((name for name in files if "/" not in name), None)):
        raise SpdError(f"{folder}/{bare} is not in a class folder: labels are the names of the subfolders of {folder}")
    return Listing("files", os.path.abspath(folder), files, modified, labelled)
