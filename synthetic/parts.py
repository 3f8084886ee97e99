"""Render a small inspection data set in VisA's folder layout, with exact defect masks.

  DIR/<object>/Data/Images/{Normal,Anomaly}/*.JPG
  DIR/<object>/Data/Masks/Anomaly/*.png     8-bit: the number of the kind of defect, from 1; 0 elsewhere
  DIR/<object>/image_anno.csv               image,label,mask
  DIR/split_csv/{1cls,2cls_highshot,2cls_fewshot}.csv

Each picture is a relief lit by one lamp. A defect changes the relief, and its mask is what the camera then sees
differently: no pixels are cut, pasted or blended, so nothing here resembles the perturbations of SPD training.
The same arguments give the same bytes, and running the command again does nothing. The 5- and 10-shot protocols draw
from 20 % of the anomalies: give --anomalies 50 for 10 shots.
"""

import sys
import zlib
from math import pi

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from synthetic import biscuit, board, defects
from synthetic.camera import FINER, photograph
from synthetic.folder import Arguments, Files, Options, main
from synthetic.relief import Pixels, Relief

OBJECTS = {"board": board, "biscuit": biscuit}  # VisA has neither, so no result on them passes for one on VisA
_DAMAGE = {"scratch": defects.scratch, "stain": defects.stain, "foreign": defects.foreign}
KINDS = (*_DAMAGE, "missing")  # the object itself draws "missing": it leaves a piece of itself out
VISIBLE = 10  # grey levels, of 255 in any channel, that count as a change: twice the strongest noise; our choice
_SMALLEST = 4e-4  # fraction of the picture that a defect must change; otherwise another one is drawn

OPTIONS: Options = {
    "train": (60, 2, "normal pictures per object that the 1-class split trains on"),
    "test-normal": (24, 1, "further normal pictures per object, tested on"),
    "anomalies": (24, 4, "pictures with a defect per object; the four kinds take turns"),
    "size": (256, 64, "shorter side in pixels"),
    "seed": (0, 0, "another seed gives other pictures"),
}


def render(name: str, index: int, kind: str | None, *, seed: int, size: int) -> tuple[Pixels, Pixels]:
    """Render one picture of an object; a function of its arguments alone. `kind` None is a normal picture.

    Returns:
        The picture, (h, w, 3), and its mask, (h, w): 0 where flawless, otherwise the kind's number, from 1.
    """
    key = [seed, zlib.crc32(name.encode()), kind is not None, index]
    normal = _expose(name, key, size, None, None)
    if kind is None:
        return normal, np.zeros(normal.shape[:2], np.uint8)
    fate = np.random.default_rng([*key, 2])
    while True:
        image = _expose(name, key, size, kind, fate)
        mask = visible_change(normal, image)
        if mask.mean() >= _SMALLEST:
            return image, mask * np.uint8(KINDS.index(kind) + 1)


def visible_change(one: Pixels, other: Pixels) -> NDArray[np.bool_]:
    """Where two pictures (h, w, 3) differ visibly; gaps of up to four pixels are closed."""
    changed = (np.maximum(one, other) - np.minimum(one, other)).max(-1) >= VISIBLE
    closed = Image.fromarray(changed.astype(np.uint8)).filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    return np.asarray(closed) > 0


def _expose(name: str, key: list[int], size: int, kind: str | None, fate: np.random.Generator | None) -> Pixels:
    """Photograph one object; `key` alone determines pose, light and noise, and `fate` the defect."""
    part = OBJECTS[name]
    relief = Relief(size * FINER, round(size * part.ASPECT) * FINER)
    frame = part.draw(relief, np.random.default_rng([*key, 0]), fate if kind == "missing" else None)
    if kind in _DAMAGE:
        place = frame.at(*fate.uniform(-0.85, 0.85, 2) * part.HALF, fate.uniform(0, 2 * pi))
        _DAMAGE[kind](relief, place, fate, part.BARE)
    return photograph(relief, np.random.default_rng([*key, 1]))


def files(arguments: Arguments) -> Files:
    """Yield the data set file by file."""
    for name in OBJECTS:
        rows = ["image,label,mask"]
        for label in ("normal", "anomaly"):
            for index in range(_counts(arguments)[label]):
                kind = KINDS[index % len(KINDS)] if label == "anomaly" else None
                image, mask = _paths(name, index, label)
                pixels, truth = render(name, index, kind, seed=arguments["seed"], size=arguments["size"])
                yield image, pixels
                if mask:
                    yield mask, truth
                rows.append(f"{image},{kind or 'normal'},{mask}")
        yield f"{name}/image_anno.csv", "\n".join([*rows, ""])
    yield from splits(arguments)


def splits(arguments: Arguments) -> Files:
    """Yield the split files.

    1cls trains on `train` normal pictures; as in VisA, 2cls_highshot on 60 % of each class, 2cls_fewshot on 20 %.
    """
    for split, share in (("1cls", None), ("2cls_highshot", 0.6), ("2cls_fewshot", 0.2)):
        rows = ["object,split,label,image,mask"]
        for name in OBJECTS:
            rng = np.random.default_rng([arguments["seed"], zlib.crc32(name.encode())])
            for label, count in _counts(arguments).items():
                trained = {"normal": arguments["train"], "anomaly": 0}[label] if share is None else round(share * count)
                for position, index in enumerate(rng.permutation(count).tolist()):
                    part = "train" if position < trained else "test"
                    rows.append(",".join((name, part, label, *_paths(name, index, label))))
        yield f"split_csv/{split}.csv", "\n".join([*rows, ""])


def _counts(arguments: Arguments) -> dict[str, int]:
    return {"normal": arguments["train"] + arguments["test-normal"], "anomaly": arguments["anomalies"]}


def _paths(name: str, index: int, label: str) -> tuple[str, str]:
    """Image and mask; VisA numbers normal pictures with four digits and others with three."""
    if label == "normal":
        return f"{name}/Data/Images/Normal/{index:04d}.JPG", ""
    return f"{name}/Data/Images/Anomaly/{index:03d}.JPG", f"{name}/Data/Masks/Anomaly/{index:03d}.png"


if __name__ == "__main__":
    sys.exit(main("synthetic.parts", __doc__, OPTIONS, files))
