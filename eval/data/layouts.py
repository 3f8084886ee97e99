"""Data sets in their published layouts, VisA's and MVTec AD's, recognised by their folders."""

from dataclasses import dataclass
from pathlib import Path

from spd_weights.errors import SpdError

VISA_OBJECTS = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1",
    "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum",
)  # fmt: skip
_SEARCHED_FOR = (
    "VisA: <object>/Data/Images/Normal with split_csv/ beside the objects; "
    "MVTec: <category>/train/good with <category>/test"
)


@dataclass(frozen=True)
class Source:
    """The folder of one category, and the data set that it belongs to."""

    dataset: str
    name: str
    folder: Path
    layout: str  # "visa" or "mvtec"


def recognise(root: Path) -> list[Source]:
    """Find the categories in a folder: one category, a folder of categories, or a folder of data sets.

    Returns:
        The categories, sorted by data set and name.

    Raises:
        SpdError: No data set is recognised.
    """
    if root.is_file():
        raise SpdError(f"{root}: is a file; unpack it (tar -xf) and give the folder")
    if not root.is_dir():
        raise SpdError(f"{root}: no such folder; --data takes a data set's folder")
    root = root.resolve()
    folders = [(root, root.parent)] if _layout(root) else []
    if not folders:
        for child in subfolders(root):
            if _layout(child):
                folders.append((child, root))
            else:
                folders += [(grand, child) for grand in subfolders(child) if _layout(grand)]
    if not folders:
        empty = "the folder is empty" if not any(root.iterdir()) else "no data set recognised"
        raise SpdError(f"{root}: {empty}; searched it and two levels below for {_SEARCHED_FOR}")
    sources = []
    for folder, dataset in folders:
        layout = _layout(folder)
        sources.append(Source(_name(dataset, layout), folder.name, folder, layout))
    return sorted(sources, key=lambda s: (s.dataset, s.name))


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _layout(folder: Path) -> str:
    if (folder / "Data" / "Images").is_dir():
        return "visa"
    return "mvtec" if (folder / "train" / "good").is_dir() else ""


def _name(dataset: Path, layout: str) -> str:
    """Return "visa" for a folder with VisA's objects alone, otherwise the folder's name."""
    objects = {child.name for child in subfolders(dataset) if _layout(child) == "visa"}
    # A manifest says that a program made the pictures, whatever their objects are called.
    if layout == "visa" and objects <= set(VISA_OBJECTS) and not (dataset / "manifest.json").exists():
        return "visa"
    # Other pictures in a folder called visa must not pass for VisA.
    return f"{dataset.name}-layout" if dataset.name.lower() == "visa" else dataset.name
