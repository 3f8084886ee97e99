"""A saved detector inside anomalib gives our scores, maps and AUROC."""

import numpy as np
import pytest
import torch

from eval.data.images import batches
from eval.detectors.methods import Settings
from eval.detectors.saved import load_detector
from eval.inspection.fit import FitOptions, fit
from eval.metrics.metrics import image_metrics
from tests.eval.helpers import mvtec_category, tiny_export

pytestmark = pytest.mark.slow
SETTINGS = Settings(image_size=64, padim_dims=8, coreset_ratio=0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("anomalib")
    mvtec_category(root / "tile", train=12)
    tiny_export(root / "run" / "export")
    return root


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_engine_gives_our_scores(place, tmp_path, method):
    pytest.importorskip("anomalib", reason="anomalib is not installed")
    from anomalib.data import Folder
    from anomalib.engine import Engine

    from eval.detectors.anomalib import SavedDetector

    file = tmp_path / "tile.safetensors"
    fit(sorted((place / "tile/train/good").iterdir()), file, FitOptions(str(place / "run"), method, SETTINGS))
    detector, extractor, about = load_detector(file)
    test = [*sorted((place / "tile/test/good").iterdir()), *sorted((place / "tile/test/spot").iterdir())]
    scores, maps = detector(extractor(next(batches(test, 64, len(test), 0))))

    engine = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)
    predictions = engine.predict(model=SavedDetector(file), data_path=place / "tile/test")
    found = {
        path: (score, heat)
        for batch in predictions
        for path, score, heat in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True)
    }
    assert sorted(found) == sorted(map(str, test))
    np.testing.assert_allclose([float(found[str(path)][0]) for path in test], scores, rtol=1e-5)
    np.testing.assert_allclose(torch.stack([found[str(path)][1] for path in test]), maps, rtol=1e-4)

    data = Folder(name="tile", root=place / "tile", normal_dir="train/good", normal_test_dir="test/good",
                  abnormal_dir="test/spot", mask_dir="ground_truth/spot", num_workers=0, eval_batch_size=3)  # fmt: skip
    (measured,) = engine.test(SavedDetector(file), datamodule=data, verbose=False)
    anomalous = np.array(["spot" in str(path) for path in test])
    assert measured["image_AUROC"] == pytest.approx(image_metrics(scores.numpy(), anomalous)["image_auroc"].value)
    assert "pixel_AUROC" in measured
    labels = [bool(label) for batch in predictions for label in batch.pred_label]
    assert sum(labels) == int((scores > about["threshold"]).sum())
