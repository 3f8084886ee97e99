"""Image sources: folders, shards and Hub datasets, each opened as a table of encoded images."""

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from huggingface_hub import HfFileSystem, hf_hub_download

from spd_weights.errors import SpdError
from spd_weights.files import read_json, write_json
from spd_weights.images import IMAGE_SUFFIXES

from ..distributed import broadcast, processes, rank
from .folders import Files, Listing, find_files, list_images
from .shards import Layout, Shards, open_parquet, read_with_retries, tar_rows

Table = datasets.Dataset | Files | Shards
_SHARDS = {".parquet": "parquet", ".tar": "webdataset"}
_SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
_IMAGE_COLUMNS = ("image", "img", "jpg", "png")
_LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")


def open_images(source: str, labelled: bool = False, split: str = "train", kept: Path | None = None) -> Table:
    """Open a collection of images without decoding any.

    Args:
        source: a folder of images (subfolders included), a folder of parquet files or webdataset tars (only
            those whose names start with the split's name, if there are any), or hf:owner/dataset[:config],
            whose parquet files are read by byte ranges instead of being downloaded.
        labelled: also read labels: the names of a folder's subfolders, or a column `label`.
        split: "train" or "val".
        kept: file in which `keep_layout` stored what was found at an earlier launch. With it nothing is listed
            again unless a folder has changed, and a Hub repository is read at the same commit as then.

    Returns:
        A table with the column `image`, {"bytes", "path"} as stored, and with `labelled` the ClassLabel `label`.

    Raises:
        SpdError: the source does not exist, or has no images or no labels.
    """
    question = {"source": source, "labelled": labelled, "split": split}
    if kept and kept.exists() and {**(known := read_json(kept)), **question} == known:
        table = from_layout(known["layout"])
        if isinstance(table, Shards):
            _refuse_changed_shards(table.layout)
            return table
        if table.layout.is_current():
            return table
    if source.startswith("hf:"):
        return _from_hub(source, labelled, split)
    folder = Path(source).expanduser()
    if not source or not folder.is_dir():
        found = "a file" if folder.is_file() else "no such folder"
        raise SpdError(f"{source or repr(source)}: {found}; name a folder of images or shards, or hf:owner/dataset")
    files, modified = find_files(folder, {*IMAGE_SUFFIXES, *_SHARDS})
    for suffix, kind in _SHARDS.items():
        shards = sorted(os.path.abspath(folder / name) for name in files if name.lower().endswith(suffix))
        shards = [shard for shard in shards if Path(shard).name.startswith(_SPLITS[split])] or shards
        if shards:
            return Shards(_LAYOUTS[kind](source, shards, labelled))
    return Files(list_images(folder, files, modified, labelled))


def keep_layout(table: Table, source: str, labelled: bool, split: str, kept: Path) -> None:
    """Store what was found in a file, for `open_images` at a later launch.

    Raises:
        SpdError: the file cannot be written.
    """
    if isinstance(table, datasets.Dataset):
        return
    question = {"source": source, "labelled": labelled, "split": split}
    try:
        write_json(kept, {**question, "layout": dataclasses.asdict(table.layout)})
    except OSError as error:
        raise SpdError(f"{kept} cannot be written: {error.strerror}") from error


def from_layout(layout: dict[str, Any]) -> Files | Shards:
    """Make a table from `dataclasses.asdict(table.layout)`, without listing anything."""
    return Files(Listing(**layout)) if layout["kind"] == "files" else Shards(Layout(**layout))


def open_shared(source: str, labelled: bool, split: str, kept: Path, device: torch.device) -> Table:
    """Open images on every process: the first one lists them and sends what it found to the others, which wait.

    Arguments and result as of `open_images`; `device` is the training device.

    Raises:
        SpdError: as `open_images`, on every process.
    """
    if processes() == 1:
        return open_images(source, labelled, split, kept)
    table, found = None, {}
    if rank() == 0:
        try:
            table = open_images(source, labelled, split, kept)
            found = {"layout": None if isinstance(table, datasets.Dataset) else dataclasses.asdict(table.layout)}
        except SpdError as error:
            found = {"error": str(error)}
    found = broadcast(found, device)
    if "error" in found:
        raise SpdError(found["error"])
    if table is not None:
        return table
    return from_layout(found["layout"]) if found["layout"] else open_images(source, labelled, split)


def fingerprint(table: Table) -> dict[str, Any]:
    """Identify images by what was listed, wherever they are stored.

    Returns:
        {"images": count, "sha256": digest}. The digest covers the relative path of each image file, or the name,
        size and groups of each shard, or the name and size of another Hub dataset. It does not cover pixels.
    """
    content: Any
    if isinstance(table, Files):
        content = table.layout.files
    elif isinstance(table, Shards):
        names = [Path(name).name for name in table.layout.files]
        content = [names, table.layout.sizes, table.layout.groups]
    else:
        content = [table.info.dataset_name, table.info.config_name, str(table.split), table.info.dataset_size]
    return {"images": len(table), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def _refuse_changed_shards(layout: Layout) -> None:
    for path, size in zip(layout.files, layout.sizes, strict=True):
        if not path.startswith("hf://") and (not os.path.exists(path) or os.path.getsize(path) != size):
            raise SpdError(f"{path} has changed since the run began: restore it, or start a new run with another --out")


def _from_hub(source: str, labelled: bool, split: str) -> Table:
    name, _, config = source.removeprefix("hf:").partition(":")
    if not name:
        raise SpdError(f"{source}: no data set is named; write hf:owner/dataset or hf:owner/dataset:config")
    try:
        builder = datasets.load_dataset_builder(name, config or None)
        files = builder.config.data_files or {}
        there = [str(candidate) for candidate in (files or builder.info.splits or {})]
        chosen = next((candidate for candidate in _SPLITS[split] if candidate in there), None)
        if chosen is None:
            raise SpdError(f"{source}: it has the splits {there}, but none of {', '.join(_SPLITS[split])}")
        urls = [str(url) for url in files.get(chosen, ())]
        if urls and all(url.endswith(".parquet") for url in urls):
            return Shards(_parquet(source, urls, labelled, builder.info.features))
        if urls and all(url.endswith(".tar") for url in urls):  # tars have no index, so they are downloaded
            return Shards(_webdataset(source, [_download(url) for url in urls], labelled))
        return _columns(datasets.load_dataset(name, config or None, split=chosen), source, labelled)
    except SpdError:
        raise
    except Exception as error:  # the Hub, the network or the cache: the message says which
        raise SpdError(f"{source}: the dataset could not be opened: {error}") from error


def _download(url: str) -> str:
    place = HfFileSystem().resolve_path(url)
    return hf_hub_download(place.repo_id, place.path_in_repo, repo_type=place.repo_type, revision=place.revision)


def _parquet(source: str, files: list[str], labelled: bool, features: datasets.Features | None = None) -> Layout:
    """Read the layout of parquet files from their footers, and from label columns if no footer names the classes."""

    def footer(path: str) -> pq.ParquetFile:
        try:
            return read_with_retries(lambda: open_parquet(path), path)
        except SpdError:
            raise
        except Exception as error:
            raise SpdError(f"{path}: the parquet shard is damaged: {error}; fetch it again") from error

    with ThreadPoolExecutor(16) as pool:
        shards = list(pool.map(footer, files))
        features = features or datasets.Features.from_arrow_schema(shards[0].schema_arrow)
        image, label = _chosen(features, source, labelled)
        for path, shard in zip(files, shards, strict=True):
            if missing := {image, *([label] if label else [])} - {*shard.schema_arrow.names}:
                raise SpdError(f"{path}: the column {min(missing)} is missing, which other shards of {source} have")
        names, values = [], None
        if label and isinstance(features[label], datasets.ClassLabel):
            names = features[label].names
        elif label:
            columns = pool.map(lambda shard: shard.read(columns=[label]).column(0).unique().to_pylist(), shards)
            values = sorted({value for column in columns for value in column if value is not None})
            names = [str(value) for value in values]
    groups, sizes = [], []
    for file, shard in enumerate(shards):
        for group in range(shard.metadata.num_row_groups):
            described = shard.metadata.row_group(group)
            groups.append((file, group, described.num_rows))
            sizes.append(described.total_byte_size)
    if not sum(rows for _, _, rows in groups):
        raise SpdError(f"{source}: the parquet shards hold no rows")
    return Layout(
        "parquet", files, [_size(path) for path in files], groups, sum(sizes) / len(sizes), image, label, names, values
    )


def _webdataset(source: str, files: list[str], labelled: bool) -> Layout:
    """Read the layout of webdataset tars from their headers."""
    label = "cls" if labelled else None
    groups, values = [], set()
    for file, path in enumerate(files):
        rows = tar_rows(path, label)
        if label and (bare := next((name for name, _, _, value in rows if value is None), None)):
            raise SpdError(f"{path}: no label: {bare} has no .cls file beside it")
        groups += [(file, -1, len(rows))] if rows else []
        values |= {value for _, _, _, value in rows}
    if not groups:
        raise SpdError(f"{source}: no images in the tars; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    classes = sorted(values) if label else None
    names = [str(value) for value in classes or ()]
    return Layout("webdataset", files, [_size(path) for path in files], groups, 0.0, "", label, names, classes)


_LAYOUTS: dict[str, Any] = {"parquet": _parquet, "webdataset": _webdataset}


def _size(path: str) -> int:
    return HfFileSystem().info(path)["size"] if path.startswith("hf://") else os.path.getsize(path)


def _chosen(features: datasets.Features, source: str, labelled: bool) -> tuple[str, str | None]:
    """Names of the image column and, if requested, the label column."""
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    images += [name for name in _IMAGE_COLUMNS if name in features]
    labels = [name for name in _LABEL_COLUMNS if name in features]
    if not images:
        raise SpdError(f"{source}: no image column; its columns are {list(features)}")
    if labelled and not labels:
        raise SpdError(f"{source}: no label column; its columns are {list(features)}")
    return images[0], labels[0] if labelled else None


def _columns(table: datasets.Dataset, source: str, labelled: bool) -> datasets.Dataset:
    image, label = _chosen(table.features, source, labelled)
    renames = {image: "image", **({label: "label"} if label else {})}
    table = table.select_columns(list(renames))
    table = table.rename_columns({old: new for old, new in renames.items() if old != new})
    if labelled and not isinstance(table.features["label"], datasets.ClassLabel):
        table = table.class_encode_column("label")
    return table.cast_column("image", datasets.Image(decode=False))
