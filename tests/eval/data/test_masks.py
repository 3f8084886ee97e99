"""Masks at the method's size and at their own, and the regions that get lost between the two."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from eval.data.datasets import Sample
from eval.data.images import read_mask
from eval.data.masks import count_regions, defect_masks
from tests.eval.helpers import DEFECT, mask, save


def sample(folder, defects, size=(300, 200)):
    """An anomaly with square defects, as (left, top, side), or a normal image without any."""
    image = save(Image.new("RGB", size), folder / f"{len(list(folder.rglob('*.png')))}.png")
    if not defects:
        return Sample(image, False, None, "good")
    pixels = np.zeros(size[::-1], np.uint8)
    for left, top, side in defects:
        pixels[top : top + side, left : left + side] = 255
    return Sample(image, True, save(Image.fromarray(pixels), image.with_name(f"{image.stem}_mask.png")), "hole")


def test_regions_without_a_pixel_are_counted(tmp_path):
    one = sample(tmp_path, [(10, 10, 1), (40, 40, 30), (41, 101, 2)])
    assert count_regions(one, None, "square") == (3, 3)
    assert count_regions(one, 20, "square") == (3, 1)
    touching = sample(tmp_path, [(10, 10, 5), (15, 15, 5)])  # corner to corner: one region
    assert count_regions(touching, None, "square") == (1, 1)
    outside = sample(tmp_path, [(0, 0, 10), (150, 100, 10)])
    assert count_regions(outside, None, "short-crop") == (2, 1)
    assert count_regions(outside, 100, "short-crop") == (2, 1)


@pytest.mark.parametrize("resize", ["square", "short-crop"])
def test_native_masks_have_the_evaluated_part_at_its_own_size(tmp_path, resize):
    samples = [sample(tmp_path, []), sample(tmp_path, [(150, 100, 20), (0, 0, 3)])]
    masks = defect_masks(samples, 50, resize, "native")
    for _ in range(2):  # read anew each time
        normal, anomalous = masks.scored
        assert normal.shape == anomalous.shape == ((200, 300) if resize == "square" else (176, 176))
        assert not normal.any()
        assert anomalous.sum() == 400 + (9 if resize == "square" else 0)
    assert (masks.regions, masks.left_out) == (2, 0 if resize == "square" else 1)
    assert masks.square.shape == (2, 50, 50)
    top, left = np.argwhere(anomalous)[-1]
    assert (left, top) == ((169, 119) if resize == "square" else (169 - 62, 119 - 12))


def test_at_the_input_size_the_squares_are_scored(tmp_path):
    samples = [sample(tmp_path, [(150, 100, 20), (0, 0, 1)])]
    masks = defect_masks(samples, 30, "square", "input")
    assert masks.scored is masks.square
    assert (masks.regions, masks.left_out) == (2, 1)
    assert defect_masks([sample(tmp_path, [])], 30, "square", "native") is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P"])
def test_masks_of_any_mode_mean_non_zero(tmp_path, mode):
    path = save(mask(value=255 if mode == "1" else 3).convert(mode), tmp_path / "mask.png")
    left, right, top, bottom = DEFECT
    found = read_mask(path, 100)
    assert found.sum() == pytest.approx(100 * 100 * (right - left) * (bottom - top) / (50 * 30), rel=0.05)


def test_a_normal_image_that_is_displayed_upright_is_scored_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    Image.new("RGB", (300, 200)).save(tmp_path / "turned.jpg", exif=exif)
    turned = Sample(tmp_path / "turned.jpg", False, None, "good")
    anomaly = sample(tmp_path, [(150, 100, 20)], (200, 300))
    masks = defect_masks([turned, anomaly], 50, "square", "native")
    assert [mask.shape for mask in masks.scored] == [(300, 200), (300, 200)]
