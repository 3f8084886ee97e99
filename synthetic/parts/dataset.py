"""The data set as files: VisA's folders, annotations and split files."""

import csv
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spd_weights.errors import SpdError
from spd_weights.files import holds, replacing, write_json
from synthetic.parts.render import OBJECTS, render

VERSION = 1
"""Raised whenever the same arguments would give other files."""

COLUMNS = ("object", "split", "label", "image", "mask")
_QUALITY = 92


@dataclass(frozen=True)
class Arguments:
    """What determines every byte of the data set, VERSION aside."""

    objects: tuple[str, ...] = tuple(OBJECTS)
    train: int = 60
    test_normal: int = 24
    anomalies: int = 24
    size: int = 256
    seed: int = 0

    def check(self) -> None:
        """Raise SpdError for values that cannot make a data set."""
        unknown = sorted(set(self.objects) - set(OBJECTS))
        if unknown or not self.objects:
            raise SpdError(f"--objects {' '.join(unknown)}: choose from {', '.join(OBJECTS)}")
        if len(set(self.objects)) < len(self.objects):
            raise SpdError(f"--objects {' '.join(self.objects)}: names one of them twice")
        for name, value, least in (
            ("train", self.train, 2), ("test-normal", self.test_normal, 1), ("anomalies", self.anomalies, 3),
            ("size", self.size, 64), ("seed", self.seed, 0),
        ):  # fmt: skip
            if value < least:
                raise SpdError(f"--{name} {value}: must be at least {least}")


def write(directory: Path, arguments: Arguments, advance: Callable[[], None] = lambda: None) -> bool:
    """Write the data set, complete or not at all.

    Args:
        directory: Where; must be absent, empty, or this very data set.
        arguments: What to render.
        advance: Called after each picture.

    Returns:
        Whether anything was written: False if the directory already holds this very data set.

    Raises:
        SpdError: The directory holds something else, or cannot be written.
    """
    arguments.check()
    directory = directory.absolute()
    manifest = {
        "made_by": "synthetic.parts",
        "version": VERSION,
        "arguments": {**asdict(arguments), "objects": list(arguments.objects)},
        "pictures": picture_count(arguments),
        "kinds": {name: list(OBJECTS[name].KINDS) for name in arguments.objects},
    }
    if holds(directory, manifest, "this data set"):
        return False
    with replacing(directory, known=()) as beside:
        for name in arguments.objects:
            _write_object(beside, name, arguments, advance)
        write_splits(beside / "split_csv", arguments)
        write_json(beside / "manifest.json", manifest)
    return True


def picture_count(arguments: Arguments) -> int:
    """Return how many pictures the data set has."""
    return len(arguments.objects) * (arguments.train + arguments.test_normal + arguments.anomalies)


def _write_object(root: Path, name: str, arguments: Arguments, advance: Callable[[], None]) -> None:
    data = root / name / "Data"
    rows = []
    for anomalous, folder, count in _groups(arguments):
        (data / "Images" / folder).mkdir(parents=True)
        if anomalous:
            (data / "Masks" / folder).mkdir(parents=True)
        for index in range(count):
            picture, mask, kinds = render(name, index, seed=arguments.seed, size=arguments.size, anomalous=anomalous)
            image_path, mask_path = _paths(name, anomalous, index)
            Image.fromarray(picture).save(root / image_path, "JPEG", quality=_QUALITY)
            if anomalous:
                Image.fromarray(mask).save(root / mask_path)
            rows.append((image_path, ",".join(kinds) or "normal", mask_path))
            advance()
    _write_csv(root / name / "image_anno.csv", ("image", "label", "mask"), rows)


def _groups(arguments: Arguments) -> tuple[tuple[bool, str, int], ...]:
    normal = arguments.train + arguments.test_normal
    return (False, "Normal", normal), (True, "Anomaly", arguments.anomalies)


def _paths(name: str, anomalous: bool, index: int) -> tuple[str, str]:
    """Image and mask path from the root; VisA numbers normals with four digits, anomalies with three."""
    if not anomalous:
        return f"{name}/Data/Images/Normal/{index:04d}.JPG", ""
    return f"{name}/Data/Images/Anomaly/{index:03d}.JPG", f"{name}/Data/Masks/Anomaly/{index:03d}.png"


def write_splits(folder: Path, arguments: Arguments) -> None:
    """Write the three split files.

    1cls trains on `train` normals and tests on the rest and every anomaly. As in VisA, 2cls_highshot takes
    60 % of each class for training and 2cls_fewshot 20 %, a part of those 60 %. 1cls is drawn
    independently of the other two, as there.
    """
    folder.mkdir()
    normal = arguments.train + arguments.test_normal
    files: dict[str, list[tuple[str, ...]]] = {"1cls": [], "2cls_highshot": [], "2cls_fewshot": []}
    for name in arguments.objects:
        rng = np.random.default_rng([arguments.seed, zlib.crc32(name.encode())])
        one_class, normals, anomalies = (rng.permutation(n) for n in (normal, normal, arguments.anomalies))
        files["1cls"] += _rows(name, one_class, arguments.train, np.sort(anomalies), 0)
        for split, part in (("2cls_highshot", 0.6), ("2cls_fewshot", 0.2)):
            counts = round(part * normal), round(part * arguments.anomalies)
            files[split] += _rows(name, normals, counts[0], anomalies, counts[1])
    for split, rows in files.items():
        _write_csv(folder / f"{split}.csv", COLUMNS, rows)


def _rows(
    name: str, normals: np.ndarray, train_normals: int, anomalies: np.ndarray, train_anomalies: int
) -> list[tuple[str, ...]]:
    rows = []
    for split, good, bad in (
        ("train", normals[:train_normals], anomalies[:train_anomalies]),
        ("test", normals[train_normals:], anomalies[train_anomalies:]),
    ):
        for label, indices in (("normal", good), ("anomaly", bad)):
            rows += [(name, split, label, *_paths(name, label == "anomaly", int(i))) for i in indices]
    return rows


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
