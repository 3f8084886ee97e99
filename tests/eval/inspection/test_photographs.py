"""Finding photographs, and decoding odd ones."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from eval.inspection.fit import FitOptions, fit
from eval.inspection.photographs import copies, decode, find_photographs, photographs_in
from spd_weights.errors import SpdError
from tests.eval.helpers import RANDOM
from tests.eval.inspection.helpers import SETTINGS

SHADES = np.random.default_rng(0).integers(60, 200, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", ".hidden.png", ".cache/d.png", "notes.txt", "out/e.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SHADES).save(path, format="PNG")
    return tmp_path / "photos"


def test_folders_patterns_and_files(folder, monkeypatch):
    def names(*given, ignored=None):
        return [file.relative_to(folder).as_posix() for file in find_photographs(given, ignored)]

    assert names(folder) == ["a.JPG", "b.png", "deep/er/c.webp", "out/e.png"]
    assert names(folder, ignored=folder / "out") == ["a.JPG", "b.png", "deep/er/c.webp"]
    assert names(folder / "*.png") == ["b.png"]
    assert names(folder / "**" / "*.webp") == ["deep/er/c.webp"]
    assert names(folder / "notes.txt", folder / "b.png", folder / "b.png") == ["notes.txt", "b.png"]
    bracket = folder / "[1].png"
    shutil.copy(folder / "b.png", bracket)
    assert find_photographs([bracket]) == [bracket]
    os.symlink(folder / "b.png", folder / "link.png")
    assert names(folder / "b.png", folder / "link.png") == ["b.png"]
    assert names(folder / "*" / "*.png", ignored=folder / "deep") == ["out/e.png"]
    with pytest.raises(SpdError, match=r"b\.png: cannot be searched"):  # os.walk would skip it silently
        photographs_in(folder / "b.png")
    for wrong, reason in ((folder / "*.gif", "no photograph in it"), (folder / "gone", "no such photograph")):
        with pytest.raises(SpdError, match=reason):
            find_photographs([wrong])


def odd_photographs(folder):
    """Files that are read, and files that are named with a reason."""
    folder.mkdir()
    plain = Image.fromarray(SHADES)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    readable = {
        "rgb.png": plain,
        "cmyk.jpg": plain.convert("CMYK"),
        "grey16.png": Image.fromarray(SHADES[..., 0].astype(np.uint16) * 256),
        "palette.gif": plain.convert("P"),
        "alpha.png": plain.convert("RGBA"),
        "bits.png": plain.convert("1"),
    }
    for name, image in readable.items():
        image.save(folder / name, quality=95)
    Image.fromarray(np.rot90(SHADES)).save(folder / "turned.jpg", exif=rotated, quality=95)
    Image.fromarray(SHADES[:1, :1]).save(folder / "pixel.png")
    Image.fromarray(SHADES[..., 0].astype(np.int32)).save(folder / "deep.tif")
    Image.fromarray(SHADES[..., 0].astype(np.uint16)).save(folder / "dark16.png")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    for name, source in (("cut.png", "rgb.png"), ("cut.jpg", "turned.jpg")):
        content = (folder / source).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    return [*readable, "turned.jpg"]


@pytest.mark.parametrize("workers", [0, 1])
def test_odd_photographs_are_read_or_named(tmp_path, workers):
    readable = odd_photographs(tmp_path / "odd")
    files = find_photographs([tmp_path / "odd"])
    batches = list(decode(files, 32, "square", workers, 4, 50))
    squares = {file.name: image for batch in batches for file, image in zip(batch.files, batch.images, strict=True)}
    assert squares.keys() == set(readable)
    for name in ("cmyk.jpg", "alpha.png", "turned.jpg"):
        assert (squares[name].float() - squares["rgb.png"].float()).abs().mean() < 12, name
    grey = squares["rgb.png"][0].float()
    assert (squares["grey16.png"][0].float() - grey).abs().mean() < 1
    errors = {file.name: text for batch in batches for file, text in batch.errors.items()}
    assert errors.keys() == {"pixel.png", "deep.tif", "dark16.png", "text.jpg", "empty.png", "cut.png", "cut.jpg"}
    for name, text in errors.items():
        assert text.startswith(f"{tmp_path / 'odd' / name}: ")
        assert "\n" not in text
    shapes = {tuple(picture.shape) for batch in batches for picture in batch.pictures}
    assert shapes == {(33, 50, 3)}


def test_copies_are_found_by_their_bytes(folder):
    files = find_photographs([folder])
    Image.fromarray(SHADES[::-1].copy()).save(folder / "b.png")
    assert copies(files) == {folder / "deep/er/c.webp": folder / "a.JPG", folder / "out/e.png": folder / "a.JPG"}


def test_fit_leaves_out_what_it_cannot_use_and_names_it(tmp_path):
    odd_photographs(tmp_path / "odd")
    rng = np.random.default_rng(1)
    for index in range(5):
        Image.fromarray(rng.integers(60, 200, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "odd" / f"{index}.png")
    shutil.copy(tmp_path / "odd" / "0.png", tmp_path / "odd" / "again.png")
    save = tmp_path / "part.safetensors"
    done = fit(find_photographs([tmp_path / "odd"]), save, FitOptions(RANDOM, "knn", SETTINGS, workers=0))
    assert done.about["n_train"] == 12
    assert len(done.skipped) == 8
    assert any("again.png: a copy of" in reason for reason in done.skipped)
