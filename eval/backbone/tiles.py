"""Feature maps of photographs that are much larger than a backbone's input, from overlapping tiles."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spd_weights.errors import SpdError

from .features import Extractor

_OVERLAP = 1 / 8  # of a tile's side, cut off at inner borders, where a network sees its padding


class TiledExtractor:
    """An extractor that sees an image in N x N overlapping tiles and joins their maps into one map per layer.

    Detectors, image scores and thresholds work as on one large image, because that is what the joined maps describe.
    At each inner border, an eighth of a tile gives only context: its features are cut off.

    Attributes:
        image_size: Side of the whole image in pixels.
        Others: Those of the `Extractor` for one tile.
    """

    def __init__(self, extractor: Extractor, tiles: int) -> None:
        """Plan the tiles.

        Args:
            extractor: Sees one tile.
            tiles: Number of tiles N along each side of the image, at least 2.

        Raises:
            SpdError: The maps of a tile do not share a grid.
        """
        self._extractor, self._tiles = extractor, tiles
        side = extractor.image_size
        cells = [maps.shape[2] for maps in extractor(torch.zeros(1, 3, side, side, dtype=torch.uint8))]
        coarsest = min(cells)
        self._margin = math.ceil(coarsest * _OVERLAP)
        self._step = coarsest - 2 * self._margin
        if self._step < 1 or side % coarsest or any(count % coarsest for count in cells):
            raise SpdError(
                f"--image-size {side}: maps of {', '.join(map(str, cells))} positions per side cannot be joined from "
                "tiles; choose a larger multiple of 32"
            )
        self._coarsest, self._pixels = coarsest, side // coarsest
        self.image_size = (coarsest + (tiles - 1) * self._step) * self._pixels

    def __getattr__(self, name: str) -> Any:
        """Everything else is that of the extractor for one tile."""
        return getattr(self._extractor, name)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Extract the joined feature maps of a batch.

        Args:
            images: RGB, uint8 [B, 3, S, S], with S = `image_size`.

        Returns:
            One map per layer, float32 [B, C_l, H_l, W_l], on the extractor's device.
        """
        return self._joined(self._extractor, images)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The joined feature maps of images that are `normalised`."""
        return self._joined(self._extractor.maps, pixels)

    def _joined(self, extract: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
        rows = [self._row(extract, images, row) for row in range(self._tiles)]
        return [torch.cat(maps, dim=2) for maps in zip(*rows, strict=True)]

    def _row(self, extract: Callable[[Tensor], list[Tensor]], images: Tensor, row: int) -> list[Tensor]:
        side, step = self._extractor.image_size, self._step * self._pixels
        band = images[:, :, row * step : row * step + side]
        tiles = []
        for column in range(self._tiles):
            maps = extract(band[:, :, :, column * step : column * step + side])
            tiles.append([m[:, :, self._kept(row, m.shape[2]), self._kept(column, m.shape[3])] for m in maps])
        return [torch.cat(maps, dim=3) for maps in zip(*tiles, strict=True)]

    def _kept(self, index: int, cells: int) -> slice:
        """The positions of a tile's map that are kept along one axis."""
        margin = self._margin * cells // self._coarsest
        return slice(margin if index else 0, cells if index == self._tiles - 1 else cells - margin)


AnyExtractor = Extractor | TiledExtractor


def tiled(extractor: Extractor, tiles: int) -> AnyExtractor:
    """The extractor for N x N tiles; with N = 1 the given one."""
    return TiledExtractor(extractor, tiles) if tiles > 1 else extractor
