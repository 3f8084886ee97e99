"""Where images come from: folders, shards and the Hub, all as a table of encoded images."""

import glob
import os
from pathlib import Path

import datasets

from spd_weights.errors import SpdError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_SHARDS = {".parquet": "parquet", ".tar": "webdataset"}
_SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}


def open_images(source: str, labelled: bool = False, split: str = "train") -> datasets.Dataset:
    """Open a collection of images without decoding any.

    Args:
        source: a folder of images (searched through), a folder of parquet files or webdataset tars
            (those whose names begin with the split's, where some do), or hf:owner/dataset[:config].
        labelled: read labels, too: the names of a folder's subfolders, or a column `label`.
        split: "train" or "val".

    Returns:
        A table with the column `image`, {"bytes", "path"} as stored, and if asked for `label`, a ClassLabel.

    Raises:
        SpdError: there is nothing there, nothing that looks like images, or there are no labels.
    """
    if source.startswith("hf:"):
        return _columns(_from_hub(source, split), source, labelled)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise SpdError(f"{source}: no such folder; give a folder of images or shards, or hf:owner/dataset")
    for suffix, builder in _SHARDS.items():
        shards = sorted(glob.glob(glob.escape(str(folder)) + f"/**/*{suffix}", recursive=True))
        shards = [shard for shard in shards if Path(shard).name.startswith(_SPLITS[split])] or shards
        if shards:
            try:
                table = datasets.load_dataset(builder, data_files=shards, split="train")
            except Exception as error:  # pyarrow and datasets raise kinds of their own
                raise SpdError(f"{source}: the {suffix} shards could not be read: {error}") from error
            return _columns(table, source, labelled)
    return _image_files(folder, labelled)


def _from_hub(source: str, split: str) -> datasets.Dataset:
    name, _, config = source.removeprefix("hf:").partition(":")
    try:
        there = datasets.get_dataset_split_names(name, config or None)
        chosen = next((candidate for candidate in _SPLITS[split] if candidate in there), None)
        if chosen is None:
            raise SpdError(f"{source}: none of the splits {', '.join(_SPLITS[split])} among {there}")
        return datasets.load_dataset(name, config or None, split=chosen)
    except SpdError:
        raise
    except Exception as error:  # the Hub, the network, the cache: the library's message names which
        raise SpdError(f"{source}: the dataset could not be opened: {error}") from error


def _columns(table: datasets.Dataset, source: str, labelled: bool) -> datasets.Dataset:
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    images += [name for name in ("image", "img", "jpg", "png") if name in table.column_names]
    labels = [name for name in ("label", "labels", "cls", "fine_label") if name in table.column_names]
    if not images:
        raise SpdError(f"{source}: no image column among {table.column_names}")
    if labelled and not labels:
        raise SpdError(f"{source}: no label column among {table.column_names}")
    renames = {images[0]: "image", **({labels[0]: "label"} if labelled else {})}
    table = table.select_columns(list(renames))
    table = table.rename_columns({old: new for old, new in renames.items() if old != new})
    if labelled and not isinstance(table.features["label"], datasets.ClassLabel):
        table = table.class_encode_column("label")
    return table.cast_column("image", datasets.Image(decode=False))


def _image_files(folder: Path, labelled: bool) -> datasets.Dataset:
    paths = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths += [
            os.path.join(parent, name)
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(".")
        ]
    if not paths:
        raise SpdError(
            f"{folder}: no images in it or below; looked for {', '.join(sorted(_SUFFIXES))}, .parquet and .tar"
        )
    columns, features = {"image": paths}, {"image": datasets.Image(decode=False)}
    if labelled:
        below = [Path(path).relative_to(folder).parts for path in paths]
        if bare := next((path for path, parts in zip(paths, below, strict=True) if len(parts) < 2), None):
            raise SpdError(f"{bare} lies in no class folder: labels are the names of the folders in {folder}")
        columns["label"] = [parts[0] for parts in below]
        features["label"] = datasets.ClassLabel(names=sorted(set(columns["label"])))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
