"""Golden numbers: the scores of every method on a tiny fixed set.

If a change of these numbers is intended, measure them again (`python -m tests.eval.test_golden`) and raise
`eval.cell.NUMBERS_VERSION`, so that finished cells are measured again.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from eval.data.datasets import load_categories
from eval.detectors.methods import DETECTORS, Settings
from eval.detectors.one_class import OneClassPredictor
from eval.finetune.training import Training
from eval.finetune.two_class import NETWORKS, TwoClassPredictor
from eval.predictions import Run
from tests.eval.helpers import RANDOM, mvtec_category

FILE = Path(__file__).with_name("golden.json")
SETTINGS = Settings(image_size=64, padim_dims=12, coreset_ratio=0.1)
TRAINING = Training(classifier_size=32, unet_size=32, min_steps=12, epochs=1, lr=1e-3)


def scores(method: str, folder: Path) -> np.ndarray:
    """Scores of the test images in their order, float32 [N]."""
    one_class = method in DETECTORS
    protocol = "1cls" if one_class else "2cls_highshot"
    mvtec_category(folder / "tile", train=10, normal=6, anomalous=12)
    (category,) = load_categories(folder, protocol)
    predictor = (
        OneClassPredictor(RANDOM, [method], SETTINGS) if one_class else TwoClassPredictor(RANDOM, method, TRAINING)
    )
    run = Run(protocol, method, 0)
    return predictor.predict(category, [run], 0, lambda stage, done, of: None)[run].scores


@pytest.mark.parametrize("method", [*DETECTORS, *NETWORKS])
def test_scores_are_the_golden_ones(method, tmp_path):
    golden = json.loads(FILE.read_text())[method]
    # Rounding differs between processors; training the U-Net amplifies it, to 0.006 without AVX.
    np.testing.assert_allclose(scores(method, tmp_path), golden, rtol=0.02 if method == "unet" else 1e-3)


def main() -> None:
    """Measure the golden numbers again."""
    measured = {}
    for method in (*DETECTORS, *NETWORKS):
        with tempfile.TemporaryDirectory() as folder:
            measured[method] = [float(f"{score:.6g}") for score in scores(method, Path(folder))]
    FILE.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
