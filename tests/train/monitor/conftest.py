"""A small data set with obvious anomalies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey parts, some with a bright spot where the mask is."""
    folder = tmp_path_factory.mktemp("parts") / "part"
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 8), ("test/good", 5), ("test/spot", 5)):
        (folder / place).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)
            if place == "test/spot":
                mask = np.zeros((64, 64), np.uint8)
                top, left = rng.integers(8, 44, 2)
                mask[top : top + 12, left : left + 12] = 255
                image[mask > 0] = 255
                (folder / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"ground_truth/spot/{i}_mask.png")
            Image.fromarray(image).save(folder / place / f"{i}.png")
    return folder.parent
