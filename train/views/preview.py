"""A labelled sheet of the views that the model is trained on."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from spd_weights.errors import SpdError

from ..config import Config
from ..data.loader import Crops, make_schedule
from ..data.sources import open_images
from ..recipes import Supervised
from .views import ViewMaker

_GAP, _LABEL = 6, 16
_NAMES = {
    "anchor": "anchor",
    "second": "second view",
    "positive": "positive: weak(anchor)",
    "negative": "negative: perturbed",
    "alpha": "alpha",
    "difference": "change, 3 times",
}


def write_preview(config: Config, path: Path, images: int = 6) -> Path:
    """Write the views of a run's first images, one row per image.

    Args:
        config: the run; the sheet shows exactly the views of its first step.
        path: the PNG file to write.
        images: maximum number of rows; the data or a batch may have fewer images.

    Raises:
        SpdError: the data cannot be read, or the file cannot be written.
    """
    table = open_images(config.data.train, labelled=isinstance(config, Supervised))
    batch_size = min(config.optim.batch_size, len(table))
    keys = next(make_schedule(table, batch_size, config.seed).batches(0, 1))[:images]
    batch = Crops(table, config).__getitems__(keys)
    if len(batch.bad) >= len(keys):
        raise SpdError(f"no image of the first step could be read; the last error: {list(batch.bad.values())[-1]}")
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    views = ViewMaker(config, zero, one, torch.device("cpu")).unnormalized(batch)
    if "negative" in views:
        change = (views["negative"] - views.pop("unperturbed")).abs()
        views["difference"] = (3 * change).clamp(0, 1)
    columns = {label: views[name][: len(keys)].expand(-1, 3, -1, -1) for name, label in _NAMES.items() if name in views}

    step = config.data.image_size + _GAP
    sheet = Image.new("RGB", (len(columns) * step + _GAP, len(keys) * step + _GAP + _LABEL), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (label, view) in enumerate(columns.items()):
        draw.text((_GAP + column * step, 2), label, fill="black")
        pixels = (view * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for row, image in enumerate(pixels):
            sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (_GAP + column * step, _LABEL + row * step))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise SpdError(f"--preview {path} cannot be written: {error}") from error
    return path
