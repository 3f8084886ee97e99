"""Reading images: what is found, how it is cropped, which step sees it, and what happens to bad files."""

import dataclasses
import io
import struct
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from spd_weights.errors import SpdError
from tests.train.helpers import small_config, write_photos
from train.data.decode import decode, random_resized_crop
from train.data.loader import Crops, Schedule, make_loader
from train.data.sources import open_images
from train.views.randomness import uniforms


def test_a_folder_is_searched_through_in_a_fixed_order(tmp_path: Path):
    write_photos(tmp_path / "b", 3)
    write_photos(tmp_path / "a" / "deep", 2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    paths = [Path(item["path"]).relative_to(tmp_path).as_posix() for item in open_images(str(tmp_path))["image"]]
    assert paths == ["a/deep/000.png", "a/deep/001.jpg", "b/000.png", "b/001.jpg", "b/002.jpg"]


@pytest.mark.parametrize("with_feature", [True, False])
def test_parquet_shards_hold_the_same_bytes(tmp_path: Path, with_feature: bool):
    files = sorted(write_photos(tmp_path / "photos", 6).iterdir())
    rows = {"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files], "label": list(range(6))}
    table = datasets.Dataset.from_dict(rows)
    if with_feature:
        table = table.cast_column("image", datasets.Image())
    (tmp_path / "shards").mkdir()
    table.to_parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    table.select([0]).to_parquet(tmp_path / "shards" / "val-00000-of-00001.parquet")
    read = open_images(str(tmp_path / "shards"))
    assert [item["bytes"] for item in read[list(range(6))]["image"]] == [f.read_bytes() for f in files]


@pytest.mark.parametrize("make", ["missing", "empty", "text only"])
def test_nothing_to_read_is_said(tmp_path: Path, make: str):
    folder = tmp_path / "photos"
    if make != "missing":
        folder.mkdir()
    if make == "text only":
        (folder / "readme.md").write_text("hello")
    with pytest.raises(SpdError, match="photos: no "):
        open_images(str(folder))


def crop_draws(index: int, view: int) -> np.ndarray:
    return uniforms(0, 0, np.array([index]), f"crop {view}", 23)[0]


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
            left, top, right, bottom = random_resized_crop(draws[:22], *image.size, config.augment.crop_area)
            expected = reference.resized_crop(
                reference.pil_to_tensor(image), top, left, bottom - top, right - left, [32, 32], antialias=True
            )
            if draws[22] < 0.5:
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
        exact = random_resized_crop(draws[:22], 2000, 1500, config.augment.crop_area)
        box = [8 * round(edge / 8) for edge in exact]  # whole pixels of an eighth of the size
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR, box=box), np.float32)
        crop = crops[view].permute(1, 2, 0).numpy()
        assert np.abs((crop[:, ::-1] if draws[22] < 0.5 else crop) - expected).mean() < 0.5


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


def test_crop_boxes_are_distributed_as_torchvisions():
    rng, width, height = np.random.default_rng(0), 300, 170
    ours = np.array([random_resized_crop(u, width, height, (0.2, 1.0)) for u in rng.random((4000, 22))])
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    mine = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)  # top left h w
    for column in range(4):
        assert stats.ks_2samp(mine[:, column], theirs[:, column]).pvalue > 1e-4


@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**31))
def test_crop_boxes_lie_inside_any_image(width: int, height: int, seed: int):
    left, top, right, bottom = random_resized_crop(np.random.default_rng(seed).random(22), width, height, (0.2, 1.0))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_bad_files_are_replaced_by_a_neighbour_and_named(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 8)
    (photos / "002.jpg").write_bytes((photos / "002.jpg").read_bytes()[:200])  # truncated
    (photos / "003.jpg").write_text("not an image")
    config = small_config(
        photos, tmp_path, data=dataclasses.replace(small_config(photos, tmp_path).data, max_bad_fraction=0.3)
    )
    dataset = Crops(open_images(str(photos)), config)
    batch = dataset.__getitems__([(0, 1), (0, 2), (0, 5)])
    assert set(batch.bad) == {2, 3}
    assert "002.jpg" in batch.bad[2]
    assert "003.jpg" in batch.bad[3]
    again = dataset.__getitems__([(0, 5), (0, 2)])
    assert torch.equal(again.crops[1], batch.crops[1])  # whatever the rest of the batch


def test_grey_palette_and_alpha_images_become_rgb(tmp_path: Path):
    for i, mode in enumerate(("L", "P", "RGBA", "CMYK", "1", "LA")):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new("RGB", (40, 40), (200, 30, 30)).convert(mode).save(tmp_path / f"{i}.{suffix}")
    dataset = Crops(open_images(str(tmp_path)), small_config(tmp_path, tmp_path))
    assert dataset.__getitems__([(0, i) for i in range(6)]).bad == {}


@given(images=st.integers(1, 60), batch=st.integers(1, 20), processes=st.sampled_from([1, 2, 4]))
def test_every_epoch_sees_every_image_at_most_once_and_processes_share_each_batch(
    images: int, batch: int, processes: int
):
    if batch > images or batch % processes:
        with pytest.raises(SpdError):
            Schedule(images, batch, 0, 0, processes)
        return
    whole = Schedule(images, batch, 0)
    steps = 2 * whole.steps_per_epoch
    batches = list(whole.batches(0, steps))
    parts = [list(Schedule(images, batch, 0, rank, processes).batches(0, steps)) for rank in range(processes)]
    assert [[key for share in shares for key in share] for shares in zip(*parts, strict=True)] == batches
    for epoch in range(2):
        seen = Counter(index for keys in batches for e, index in keys if e == epoch)
        assert sum(seen.values()) == images // batch * batch
        assert max(seen.values()) == 1
    assert list(whole.batches(1, steps)) == batches[1:]  # resuming is starting later


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tmp_path: Path, workers: int):
    config = small_config(write_photos(tmp_path), tmp_path)
    table = open_images(str(tmp_path))

    def crops(workers: int) -> list[torch.Tensor]:
        schedule = Schedule(len(table), 8, 0)
        return [batch.crops for batch in make_loader(Crops(table, config), schedule, 0, 4, workers)]

    for here, there in zip(crops(0), crops(workers), strict=True):
        assert torch.equal(here, there)


def test_image_without_bytes_in_memory_is_read_from_its_bytes(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50), (1, 2, 3)).save(buffer, "PNG")
    table = datasets.Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": None}]})
    table = table.cast_column("image", datasets.Image(decode=False))
    crops = Crops(table, small_config(tmp_path, tmp_path)).__getitems__([(0, 0)]).crops
    assert (crops == torch.tensor([1, 2, 3])[:, None, None]).all()
