"""anomalib's models as an oracle: the same layers, channels and coreset give the same maps.

`pip install -e ".[interop]"` brings anomalib. Its bare models are used: its Engine clamps scores before AUROC.
"""

import numpy as np
import pytest
import torch

from eval.data.datasets import load_categories
from eval.data.images import batches
from eval.detectors.methods import Settings, build_detectors
from eval.detectors.one_class import OneClassPredictor
from tests.eval.detectors.reference import smoothed
from tests.eval.helpers import mvtec_category, tiny_export

pytestmark = pytest.mark.slow
SIZE = 128
BORDER = 16  # pixels: the radius of the Gaussian, at whose border anomalib pads differently
SETTINGS = Settings(image_size=SIZE, padim_dims=20, coreset_ratio=0.05)
LAYERS = {"padim": ["layer1", "layer2", "layer3"], "patchcore": ["layer2", "layer3"]}  # anomalib's defaults


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return f"local-dir:{tiny_export(tmp_path_factory.mktemp('run') / 'export')}"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    (category,) = load_categories(mvtec_category(tmp_path_factory.mktemp("set") / "tile", train=24), "1cls")
    parts = (category.train, category.test)
    return [torch.cat(list(batches([s.image for s in part], SIZE, 8, 0))) for part in parts]


def ours(method, weights, images):
    """Our fitted detector, its backbone, and the maps of the test images."""
    predictor = OneClassPredictor(weights, [method], SETTINGS)
    extractor = predictor.extractor
    (detector,) = build_detectors(method, SETTINGS, [0], len(images[0]))
    detector.update(extractor(images[0]))
    detector.fit()
    return detector, extractor, detector(extractor(images[1]))[1].numpy()


@torch.inference_mode()
def theirs(model, extractor, images, finish):
    """What anomalib's fitted model returns for the test images, given our backbone's input."""
    dtype = next(model.parameters()).dtype
    train, test = (extractor.normalised(part).to(dtype) for part in images)
    model.train()
    model.feature_extractor.eval()
    model(train)
    finish(model)
    model.eval()
    return model(test)


def inside(maps):
    return maps[:, BORDER:-BORDER, BORDER:-BORDER]


def test_padim_is_anomalibs(weights, images):
    anomalib = pytest.importorskip("anomalib.models.image.padim.torch_model", reason="anomalib is not installed")
    detector, extractor, expected = ours("padim", weights, images)
    model = anomalib.PadimModel(backbone=weights, layers=LAYERS["padim"], n_features=len(detector.channels))
    model.idx = detector.channels
    found = theirs(model, extractor, images, lambda model: model.fit()).anomaly_map[:, 0].numpy()
    np.testing.assert_allclose(inside(found), inside(expected), rtol=2e-3)  # its ridge is 0.01001


def test_patchcore_is_anomalibs_with_the_same_coreset(weights, images):
    """Patch distances; its maps repeat them by nearest neighbour, the authors' and ours are bilinear."""
    anomalib = pytest.importorskip("anomalib.models.image.patchcore.torch_model", reason="anomalib is not installed")
    detector, extractor, expected = ours("patchcore", weights, images)
    model = anomalib.PatchcoreModel(backbone=weights, layers=LAYERS["patchcore"], num_neighbors=1)
    model.double()  # in float32 its distances lose all digits to cancellation
    grids = []

    def remember(module, given, options):
        grids.append((given[0] if given else options["patch_scores"])[:, 0].numpy())

    model.anomaly_map_generator.register_forward_pre_hook(remember, with_kwargs=True)

    def finish(model):
        model.subsample_embedding(SETTINGS.coreset_ratio)
        model.memory_bank = detector.bank.double()

    theirs(model, extractor, images, finish)
    np.testing.assert_allclose(smoothed(grids[-1], SIZE), expected, rtol=1e-3)
