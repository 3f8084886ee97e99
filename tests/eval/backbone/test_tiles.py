"""Features that are joined from tiles describe the whole image."""

import pytest
import torch
from torch.nn import functional as F

from eval.backbone.features import Extractor
from eval.backbone.tiles import TiledExtractor, tiled
from spd_weights.errors import SpdError


class Means:
    """Maps whose values depend on their own pixels only."""

    def __init__(self, image_size: int, strides: tuple[int, ...] = (8, 16)) -> None:
        self.image_size, self._strides = image_size, strides

    def __call__(self, images):
        return [F.avg_pool2d(images.float(), stride) for stride in self._strides]


@pytest.mark.parametrize("tiles", [2, 3, 5])
@pytest.mark.parametrize("side", [64, 224])
def test_local_features_are_those_of_the_whole_image(tiles, side):
    joined = TiledExtractor(Means(side), tiles)
    assert joined.image_size > (tiles - 1) * side / 2
    images = torch.randint(256, (2, 3, joined.image_size, joined.image_size), dtype=torch.uint8)
    for found, expected in zip(joined(images), Means(joined.image_size)(images), strict=True):
        assert torch.equal(found, expected)


def test_convolutional_features_are_nearly_those_of_the_whole_image():
    joined = TiledExtractor(Extractor("random:test_resnet", 128), 2)
    whole = Extractor("random:test_resnet", joined.image_size)
    images = torch.randint(256, (1, 3, joined.image_size, joined.image_size), dtype=torch.uint8)
    for found, expected in zip(joined(images), whole(images), strict=True):
        assert found.shape == expected.shape
        assert (found - expected).square().mean() < 1e-3 * expected.square().mean()


def test_sizes_that_cannot_be_joined():
    with pytest.raises(SpdError, match="multiple of 32"):
        TiledExtractor(Means(16), 2)
    with pytest.raises(SpdError, match="multiple of 32"):
        TiledExtractor(Means(72), 2)


def test_one_tile_is_the_extractor_itself():
    extractor = Means(64)
    assert tiled(extractor, 1) is extractor
