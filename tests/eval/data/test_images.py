"""Photographs and masks keep their geometry on the way to one square."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from eval.data.images import batches, image_size, read_image, read_mask, read_photo
from spd_weights.errors import SpdError
from tests.eval.helpers import DEFECT, SIZE, mvtec_category

T = Image.Transpose
# How a camera held in each of the EXIF standard's ways stores an upright scene.
UNDO = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE,
        8: T.ROTATE_270}  # fmt: skip


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile")


def test_image_and_mask_keep_the_same_place(tile):
    photo = read_image(next((tile / "test" / "spot").iterdir()), 100)
    mask = read_mask(next((tile / "ground_truth" / "spot").iterdir()), 100)
    bright = photo.min(axis=-1) > 192
    left, right, top, bottom = DEFECT
    expected = [left / SIZE[0], right / SIZE[0], top / SIZE[1], bottom / SIZE[1]]
    for found in (bright, mask):
        ys, xs = np.nonzero(found)
        edges = [xs.min() / 100, (xs.max() + 1) / 100, ys.min() / 100, (ys.max() + 1) / 100]
        assert edges == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("resize", ["square", "short-crop"])
@pytest.mark.parametrize(
    "size",
    [(1284, 1168), (1500, 1000), (1274, 1176), (1342, 1118), (1404, 1070), (1562, 960), (1358, 1104), (1300, 1154)],
)
def test_defect_of_a_visa_sized_picture_lands_where_it_should(tmp_path, size, resize):
    width, height = size
    left, right, top, bottom = 0.4 * width, 0.55 * width, 0.3 * height, 0.6 * height
    pixels = np.zeros((height, width), np.uint8)
    pixels[round(top) : round(bottom), round(left) : round(right)] = 255
    path = tmp_path / "defect.bmp"
    Image.fromarray(pixels).save(path)
    seen = (width, height) if resize == "square" else (min(size) * 224 / 256,) * 2
    sides = ((left, width, seen[0]), (right, width, seen[0]), (top, height, seen[1]), (bottom, height, seen[1]))
    expected = [(end - (whole - part) / 2) / part for end, whole, part in sides]
    for found in (read_image(path, 224, resize)[..., 0] > 127, read_mask(path, 224, resize)):
        ys, xs = np.nonzero(found)
        edges = np.array([xs.min(), xs.max() + 1, ys.min(), ys.max() + 1]) / 224
        np.testing.assert_allclose(edges, expected, atol=1 / 224)


def test_short_crop_is_resize_and_centre_crop(tmp_path):
    path = tmp_path / "smooth.bmp"
    ys, xs = np.mgrid[0:96, 0:150]
    Image.fromarray((127 + 60 * np.sin(xs / 9) + 60 * np.cos(ys / 7)).astype(np.uint8)).save(path)
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((400, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((88, 16, 312, 240)), np.int16)
    assert np.abs(read_image(path, 224, "short-crop") - expected).max() <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_the_order(tile, workers):
    paths = sorted((tile / "train" / "good").iterdir())
    stacked = np.concatenate([b.numpy() for b in batches(paths, 32, 4, workers)])
    expected = np.stack([read_image(path, 32).transpose(2, 0, 1) for path in paths])
    assert np.array_equal(stacked, expected)


def test_damaged_image_in_a_worker_is_named(tile):
    image = tile / "train" / "good" / "003.png"
    image.write_bytes(image.read_bytes()[:900])
    with pytest.raises(SpdError, match=r"^\S*003.png: damaged"):
        list(batches(sorted(image.parent.iterdir()), 32, 2, workers=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_in_any_way_gives_the_upright_image(tmp_path, orientation):
    """EXIF tag 274; Pillow's transposition is the reference for the pixels, its tables for the tag's meaning."""
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1))
    stored = upright if orientation == 1 else upright.transpose(UNDO[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    for resize in ("square", "short-crop"):
        found, expected = (read_image(tmp_path / f"{name}.png", 48, resize) for name in ("turned", "upright"))
        assert np.array_equal(found, expected)
    assert read_photo(tmp_path / "turned.png", 48, "square").shape == (32, 48, 3)
    assert np.array_equal(read_mask(tmp_path / "turned.png", 48), read_mask(tmp_path / "upright.png", 48))
    assert image_size(tmp_path / "turned.png") == upright.size


def test_sixteen_bit_grey_is_read_by_its_high_byte(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = read_image(tmp_path / "deep.png", 32)
    assert np.array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1))
    Image.fromarray(values >> 4).save(tmp_path / "twelve.png")
    with pytest.raises(SpdError, match=r"twelve\.png: .* use only 12 of 16 bits"):
        read_image(tmp_path / "twelve.png", 32)
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(SpdError, match=r"float\.tif: .*mode F"):
        read_image(tmp_path / "float.tif", 32)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow names what it skips
def test_damaged_exif_data_are_no_traceback(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution] = 6, 2.5
    path = tmp_path / "a.jpg"
    Image.new("RGB", (32, 20)).save(path, exif=exif)
    whole = path.read_bytes()
    errors = 0
    for position in range(whole.index(b"Exif"), whole.index(b"Exif") + 60):
        for value in (*range(14), 255):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                read_image(path, 16)
            except SpdError:
                errors += 1
    assert errors


def test_name_does_not_make_postscript_an_image(tmp_path):
    Image.new("RGB", (32, 20)).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(SpdError, match="not a readable image"):
        read_image(tmp_path / "a.png", 16)
