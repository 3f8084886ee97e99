"""Categories of inspection data sets in VisA's or MVTec AD's layout: their images, masks and splits."""

import csv
import functools
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spd_weights.errors import SpdError
from spd_weights.files import sha256
from spd_weights.images import IMAGE_SUFFIXES

from .images import image_size
from .layouts import Source, recognise, subfolders
from .splits import training_names

_COLUMNS = ("object", "split", "label", "image", "mask")
# sha256 of the published split files: github.com/amazon-science/spot-diff, split_csv/ at commit 2a692ab.
_OFFICIAL_SPLITS = {
    "1cls": "a48557e6033318cb90556f706196bc9d247a776a23ea51aecee5a80dd0332995",
    "2cls_highshot": "c3331eede15f2da8a75b380d4fbfb24f75ee036ec9a25147eca898da6e972f09",
    "2cls_fewshot": "5ca490e84cd7664f9d93ba3d82399d991edb5a6cbcc41359452ad7ec24be354d",
}
# k images per class are drawn from the training part of the few-shot split.
_SPLIT_OF = {"2cls_5shot": "2cls_fewshot", "2cls_10shot": "2cls_fewshot"}


@dataclass(frozen=True)
class Sample:
    """One image. `mask` is None for normal images and for categories without masks."""

    image: Path
    anomalous: bool
    mask: Path | None
    kind: str  # name of the defect; "good" for normal images


@dataclass(frozen=True)
class Category:
    """One kind of object, with the images of one protocol's split."""

    dataset: str
    name: str
    folder: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    split: str = "own"  # "official" if the split file is byte-identical to one of VisA's

    @property
    def has_masks(self) -> bool:
        """Whether defects have masks, so that localisation can be measured."""
        return any(sample.mask for sample in self.test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest that changes when the split, a label or the content of a file changes."""
        digest = hashlib.sha256()
        for part, samples in (("train", self.train), ("test", self.test)):
            for s in samples:
                contents = [_content(path, path.stat().st_mtime_ns) for path in (s.image, s.mask) if path]
                digest.update(f"{part} {s.image.name} {s.kind} {s.anomalous} {contents}\n".encode())
        return digest.hexdigest()


@functools.cache
def _content(path: Path, modified: int) -> str:
    """The file's sha256, read once per process for all weights and protocols."""
    return sha256(path)


def load_categories(root: Path, protocol: str, wanted: Sequence[str] = ()) -> list[Category]:
    """Recognise a folder and check every category that will be used.

    Args:
        root: One category, a folder of categories, or a folder of data sets. Other folders in it are ignored, and
            so are files that are not images.
        protocol: The split to use. VisA's layout has `split_csv/<protocol>.csv`; `2cls_5shot` and `2cls_10shot` use
            `2cls_fewshot`, from whose training images `draw_shots` draws. MVTec's layout has a 1-class split; for
            the other protocols, `eval.data.splits` divides all its images.
        wanted: Names of categories: `tile`, or `magnetic_tile/tile` if several data sets have a `tile`. Empty for all.

    Returns:
        The categories, sorted by data set and name.

    Raises:
        SpdError: No data set is recognised, a category is unknown, or data would give wrong numbers; the message
            names the file and the remedy.
    """
    sources = recognise(root)
    if wanted:
        unknown = set(wanted) - {s.name for s in sources} - {f"{s.dataset}/{s.name}" for s in sources}
        if unknown:
            known = ", ".join(s.name for s in sources)
            raise SpdError(f"{root}: no category {', '.join(sorted(unknown))}; there are: {known}")
        sources = [s for s in sources if s.name in wanted or f"{s.dataset}/{s.name}" in wanted]
    return [_load(source, protocol) for source in sources]


def _load(source: Source, protocol: str) -> Category:
    if source.layout == "visa":
        train, test = _visa_split(source, protocol)
    else:
        train, test = _mvtec_split(source)
        if protocol != "1cls":
            train, test = _divided(source, [*train, *test], protocol)
    _check_unique(source, train, test)
    _check_masks(source, [*train, *test])
    table = _split_file(source, protocol)
    official = source.layout == "visa" and sha256(table) == _OFFICIAL_SPLITS.get(table.stem)
    split = "official" if official else "own"
    return Category(source.dataset, source.name, source.folder, tuple(train), tuple(test), split)


def draw_shots(category: Category, shots: int, seed: int) -> Category:
    """Draw `shots` normal and `shots` anomalous training images; all test images are kept.

    The draw depends only on (seed, category), and a smaller draw is the beginning of a larger one. This is our choice,
    because VisA's authors published neither their draws nor their seeds.

    Raises:
        SpdError: A class has fewer than `shots` training images.
    """
    rng = np.random.default_rng([seed, zlib.crc32(category.name.encode())])
    drawn: list[Sample] = []
    for anomalous in (False, True):
        pool = sorted((s for s in category.train if s.anomalous == anomalous), key=lambda s: s.image.as_posix())
        if len(pool) < shots:
            kind = "anomalous" if anomalous else "normal"
            raise SpdError(f"{category.folder}: {len(pool)} {kind} training images, but {shots} must be drawn")
        drawn += [pool[index] for index in rng.permutation(len(pool))[:shots]]
    return replace(category, train=tuple(drawn))


def _split_file(source: Source, protocol: str) -> Path:
    return source.folder.parent / "split_csv" / f"{_SPLIT_OF.get(protocol, protocol)}.csv"


def _visa_split(source: Source, protocol: str) -> tuple[list[Sample], list[Sample]]:
    root, table = source.folder.parent, _split_file(source, protocol)
    if not table.is_file():
        raise SpdError(
            f"{table}: missing; VisA's splits come with its archive and with github.com/amazon-science/spot-diff"
        )
    split: dict[str, list[Sample]] = {"train": [], "test": []}
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if set(_COLUMNS) - set(rows.fieldnames or ()):
            raise SpdError(f"{table}: needs the columns {', '.join(_COLUMNS)}; restore the published file")
        for row in rows:
            if row["object"] != source.name:
                continue
            where = f"{table} line {rows.line_num}"
            if row["split"] not in split or row["label"] not in ("normal", "anomaly"):
                raise SpdError(
                    f"{where}: split {row['split']!r}, label {row['label']!r}; "
                    "expected train or test, and normal or anomaly"
                )
            anomalous = row["label"] == "anomaly"
            image = _inside(root, row["image"], where)
            mask = _inside(root, row["mask"], where) if anomalous and row["mask"] else None
            split[row["split"]].append(Sample(image, anomalous, mask, "anomaly" if anomalous else "good"))
    if not any(split.values()):
        raise SpdError(f"{table}: has no row for {source.name!r}; add its split, or choose other categories")
    return split["train"], split["test"]


def _inside(root: Path, relative: str, where: str) -> Path:
    path = Path(os.path.normpath(root / relative))
    if not relative or not path.is_relative_to(root):
        raise SpdError(f"{where}: the path {relative!r} is empty or leaves {root}; paths are relative to it")
    if not path.is_file():
        raise SpdError(f"{where}: {path} does not exist; restore the file or remove the row")
    return path


def _mvtec_split(source: Source) -> tuple[list[Sample], list[Sample]]:
    tests = source.folder / "test"
    if not tests.is_dir():
        raise SpdError(f"{tests}: missing; an MVTec category holds train/good, test/good and test/<defect>")
    train = [Sample(image, False, None, "good") for image in _images(source.folder / "train" / "good")]
    test = []
    for kind in subfolders(tests):
        for image in _images(kind):
            mask = source.folder / "ground_truth" / kind.name / f"{image.stem}_mask.png"
            anomalous = kind.name != "good"
            test.append(Sample(image, anomalous, mask if anomalous and mask.is_file() else None, kind.name))
    truth = source.folder / "ground_truth"
    if not any(sample.mask for sample in test) and any(truth.rglob("*.png")):
        raise SpdError(f"{truth}: no mask matches a test image; expected <defect>/<image's name>_mask.png")
    return train, test


def _divided(source: Source, samples: list[Sample], protocol: str) -> tuple[list[Sample], list[Sample]]:
    train, test = [], []
    for anomalous in (False, True):
        named = {s.image.relative_to(source.folder).as_posix(): s for s in samples if s.anomalous == anomalous}
        chosen = training_names(named, protocol)
        for name, sample in named.items():
            (train if name in chosen else test).append(sample)
    return train, test


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _check_unique(source: Source, train: list[Sample], test: list[Sample]) -> None:
    seen: dict[str, str] = {}
    for part, samples in (("train", train), ("test", test)):
        for sample in samples:
            real = os.path.realpath(sample.image)
            if real in seen:
                also = "twice" if seen[real] == part else "in train and in test"
                raise SpdError(
                    f"{sample.image}: listed {also} for {source.name}; remove one, because the metrics would be wrong"
                )
            seen[real] = part


def _check_masks(source: Source, samples: list[Sample]) -> None:
    anomalies = [sample for sample in samples if sample.anomalous]
    if not any(sample.mask for sample in anomalies):
        return
    for sample in anomalies:
        if sample.mask is None:
            raise SpdError(
                f"{sample.image}: an anomaly without a mask, while others of {source.name} have one; "
                "add the mask or remove the image"
            )
        image, mask = image_size(sample.image), image_size(sample.mask)
        if image != mask:
            raise SpdError(
                f"{sample.mask}: {mask[0]} x {mask[1]} pixels, but {sample.image.name} has "
                f"{image[0]} x {image[1]}; use the mask of the same photograph"
            )
