"""Decoding and cropping against Pillow and torchvision."""

import io
import struct
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from tests.train.helpers import small_config, write_photos
from train.data.decode import CropDraws, decode, random_resized_crop
from train.data.loader import Crops
from train.data.predecode import _as_ppm
from train.data.sources import open_images
from train.views.randomness import uniforms


def crop_draws(index: int, view: int) -> CropDraws:
    return CropDraws.from_uniforms(uniforms(0, 0, np.array([index]), f"crop {view}", 23)[0])


def test_crops_equal_torchvisions_of_the_decoded_image(tmp_path: Path):
    photos = write_photos(tmp_path, 12)
    config = small_config(photos, tmp_path)
    table = open_images(str(photos))
    batch = Crops(table, config).__getitems__([(0, index) for index in range(12)])
    assert batch.crops.shape == (12, 2, 3, 32, 32)
    assert batch.crops.dtype == torch.uint8
    mirrored = 0
    for index in range(12):
        image = Image.open(table[index]["image"]["path"]).convert("RGB")
        for view in range(2):
            draws = crop_draws(index, view)
            left, top, right, bottom = random_resized_crop(draws, *image.size, config.augment.crop_area)
            expected = reference.resized_crop(
                reference.pil_to_tensor(image), top, left, bottom - top, right - left, [32, 32], antialias=True
            )
            if draws.mirrored < 0.5:
                expected, mirrored = expected.flip(-1), mirrored + 1
            assert torch.equal(batch.crops[index, view], expected)
    assert 4 < mirrored < 20


def test_a_large_jpeg_decoded_small_gives_nearly_the_same_crop(tmp_path: Path):
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    big.resize((2000, 1500), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    config = small_config(tmp_path, tmp_path)
    crops = Crops(open_images(str(tmp_path)), config).__getitems__([(0, 0)]).crops[0].float()
    whole = Image.open(tmp_path / "a.jpg").convert("RGB")
    for view in range(2):
        draws = crop_draws(0, view)
        exact = random_resized_crop(draws, 2000, 1500, config.augment.crop_area)
        box = [8 * round(edge / 8) for edge in exact]  # whole pixels of an eighth of the size
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR, box=box), np.float32)
        crop = crops[view].permute(1, 2, 0).numpy()
        assert np.abs((crop[:, ::-1] if draws.mirrored < 0.5 else crop) - expected).mean() < 0.5


@pytest.mark.parametrize("kind", ["grey", "cmyk", "progressive", "rest after the end", "flawed", "png"])
def test_every_kind_of_file_gives_pillows_pixels(kind: str):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    photo, file = Image.fromarray(pixels).resize((44, 36), Image.Resampling.BICUBIC), io.BytesIO()
    if kind in ("grey", "cmyk"):
        photo = photo.convert("L" if kind == "grey" else "CMYK")
    photo.save(file, "png" if kind == "png" else "jpeg", **({"progressive": True} if kind == "progressive" else {}))
    data = file.getvalue() + (b"more" if kind == "rest after the end" else b"")
    if kind == "flawed":  # bytes before the end's marker: libjpeg warns of them, and reads on
        data = data[:-2] + b"\x00\x01\x02" + data[-2:]
    out = torch.empty(1, 3, 32, 32, dtype=torch.uint8)
    decode({"bytes": data, "path": None}, lambda width, height: [(3, 2, 35, 34)], out)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[2:34, 3:35]
    assert torch.equal(out[0], torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_a_header_that_claims_gigapixels_is_an_error_and_takes_no_memory():
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "jpeg")
    data = file.getvalue().replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65000, 65000))
    with pytest.raises(Image.DecompressionBombError):
        decode({"bytes": data, "path": None}, lambda w, h: [(0, 0, w, h), (0, 0, 32, 32)], torch.empty(2, 3, 32, 32))


def test_postscript_is_not_run():
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "eps")
    content = {"bytes": file.getvalue(), "path": None}
    with pytest.raises(UnidentifiedImageError):
        decode(content, lambda width, height: [(0, 0, 32, 32)], torch.empty(1, 3, 32, 32))
    with pytest.raises(UnidentifiedImageError):
        _as_ppm(content, None)


def test_crop_boxes_are_distributed_as_torchvisions():
    rng, width, height = np.random.default_rng(0), 300, 170
    ours = np.array(
        [random_resized_crop(CropDraws.from_uniforms(u), width, height, (0.2, 1.0)) for u in rng.random((4000, 23))]
    )
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    mine = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)  # top left h w
    for column in range(4):
        assert stats.ks_2samp(mine[:, column], theirs[:, column]).pvalue > 1e-4


@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**31))
def test_crop_boxes_lie_inside_any_image(width: int, height: int, seed: int):
    draws = CropDraws.from_uniforms(np.random.default_rng(seed).random(23))
    left, top, right, bottom = random_resized_crop(draws, width, height, (0.2, 1.0))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_grey_palette_and_alpha_images_become_rgb(tmp_path: Path):
    for i, mode in enumerate(("L", "P", "RGBA", "CMYK", "1", "LA")):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new("RGB", (40, 40), (200, 30, 30)).convert(mode).save(tmp_path / f"{i}.{suffix}")
    dataset = Crops(open_images(str(tmp_path)), small_config(tmp_path, tmp_path))
    assert dataset.__getitems__([(0, i) for i in range(6)]).bad == {}


def test_image_without_bytes_in_memory_is_read_from_its_bytes(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50), (1, 2, 3)).save(buffer, "PNG")
    table = datasets.Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": None}]})
    table = table.cast_column("image", datasets.Image(decode=False))
    crops = Crops(table, small_config(tmp_path, tmp_path)).__getitems__([(0, 0)]).crops
    assert (crops == torch.tensor([1, 2, 3])[:, None, None]).all()
