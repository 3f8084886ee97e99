"""A detector behind linear maps: the same as the detector on mapped features, also after saving."""

import pytest
import torch

from eval.detectors.base import Adapted
from eval.detectors.methods import DETECTORS, Settings, build_detectors

SETTINGS = Settings(image_size=32, padim_dims=8, coreset_ratio=0.3)
CHANNELS = (4, 6, 8, 5)


def features(seed, images):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, c, 16 >> i, 16 >> i, generator=generator) for i, c in enumerate(CHANNELS)]


def layers_of(method):
    return [(4, 8, 16, 32).index(reduction) for reduction in DETECTORS[method].reductions]


def pair(method):
    """A detector fitted on mapped features, and one behind the maps fitted on the features themselves."""
    layers = layers_of(method)
    maps = [torch.randn(CHANNELS[i], CHANNELS[i], generator=torch.Generator().manual_seed(i)) for i in layers]
    (plain,), (inner,) = (build_detectors(method, SETTINGS, [0], 12) for _ in range(2))
    adapted = Adapted(inner, maps)
    train = [features(0, 12)[i] for i in layers]
    plain.update([torch.einsum("oc,bchw->bohw", m, x) for m, x in zip(maps, train, strict=True)])
    adapted.update(train)
    plain.fit()
    adapted.fit()
    return plain, adapted, maps


@pytest.mark.parametrize("method", DETECTORS)
def test_scores_are_those_of_mapped_features(method):
    plain, adapted, maps = pair(method)
    test = [features(1, 3)[i] for i in layers_of(method)]
    expected, heat = plain([torch.einsum("oc,bchw->bohw", m, x) for m, x in zip(maps, test, strict=True)])
    score, found = adapted(test)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
    if heat is not None:
        torch.testing.assert_close(found, heat, rtol=1e-4, atol=1e-4)
    assert adapted.reductions == plain.reductions


def test_state_holds_the_maps_and_restores_them():
    _, adapted, maps = pair("patchcore")
    empty = Adapted(build_detectors("patchcore", SETTINGS, [0], 0)[0], [torch.empty(0)] * len(maps))
    empty.load_state_dict(adapted.state_dict())
    test = [features(1, 3)[i] for i in layers_of("patchcore")]
    assert torch.equal(empty(test)[0], adapted(test)[0])
    assert torch.equal(empty.map_1, maps[1])
