"""The sheet of views."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.data.helpers import write_parquet
from tests.train.helpers import arguments, small_config, write_photos
from train.__main__ import main
from train.config import DataConfig
from train.data.loader import Crops, make_loader
from train.data.sources import open_images
from train.recipes import Adapt
from train.setup import begin
from train.views.preview import write_preview
from train.views.randomness import permutation
from train.views.views import ViewMaker


def test_the_sheet_shows_the_views_of_the_first_step(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 10)
    sheet_path = tmp_path / "deep" / "sheet.png"
    assert main(arguments(photos, tmp_path / "run", "--preview", str(sheet_path))) == 0
    assert not (tmp_path / "run").exists()
    sheet = np.asarray(Image.open(sheet_path))
    assert sheet.shape == (6 * 38 + 6 + 16, 6 * 38 + 6, 3)
    config = small_config(photos, tmp_path)
    keys = [(0, int(i)) for i in permutation(0, 0, 10)[:6]]
    views = ViewMaker(config, (0, 0, 0), (1, 1, 1), torch.device("cpu")).unnormalized(
        Crops(open_images(str(photos)), config).__getitems__(keys)
    )
    for column, name in ((0, "anchor"), (3, "negative")):
        shown = sheet[16 + 38 * 2 : 16 + 38 * 2 + 32, 6 + 38 * column : 6 + 38 * column + 32]
        expected = (views[name][2] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(shown, expected)


def test_without_spd_there_are_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = write_photos(tmp_path / "photos", 8)
    main(arguments(photos, tmp_path / "run", "--preview", str(tmp_path / "s.png"), "--spd.weight", "0"))
    assert Image.open(tmp_path / "s.png").width == 2 * 38 + 6
    assert "s.png" in capsys.readouterr().out


def test_for_adapt_it_shows_the_anchor_the_negative_and_where_it_was_perturbed(tmp_path: Path):
    """The recipe adapt has neither a second strong view nor a positive."""
    photos = write_photos(tmp_path / "photos", 8)
    config = Adapt(data=DataConfig(train=str(photos), image_size=32), out=tmp_path / "run")
    sheet = np.asarray(Image.open(write_preview(config, tmp_path / "s.png", images=2)))
    assert sheet.shape[1] == 4 * 38 + 6
    anchor, negative, alpha, change = (sheet[16:48, 6 + 38 * i : 38 + 38 * i].astype(int) for i in range(4))
    keys = [(0, int(i)) for i in permutation(0, 0, 8)[:2]]
    views = ViewMaker(config, (0, 0, 0), (1, 1, 1), torch.device("cpu")).unnormalized(
        Crops(open_images(str(photos)), config).__getitems__(keys)
    )
    for shown, name in ((anchor, "anchor"), (negative, "negative"), (alpha, "alpha")):
        assert np.array_equal(shown, (views[name][0] * 255).round().byte().permute(1, 2, 0).expand(-1, -1, 3).numpy())
    assert 0 < (alpha > 0).mean() < 0.2
    assert change[alpha > 0].max() > 0
    assert (change[alpha == 0] == 0).all()


def test_with_shards_it_is_the_first_step_too(tmp_path: Path):
    shards = write_parquet(tmp_path / "shards")
    config = small_config(shards, tmp_path / "run")
    write_preview(config, tmp_path / "sheet.png", images=4)
    run = begin(config)
    batch = next(make_loader(Crops(run.images, config), run.schedule, 0, 1, 0))
    views = ViewMaker(config, (0, 0, 0), (1, 1, 1), torch.device("cpu")).unnormalized(batch)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for row in range(4):
        shown = sheet[16 + 38 * row :, 6:][:32, :32]
        assert np.array_equal(shown, (views["anchor"][row] * 255).round().byte().permute(1, 2, 0).numpy())
