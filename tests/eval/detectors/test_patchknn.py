"""AnomalyDINO's distances against SciPy."""

import numpy as np
import torch
from scipy.spatial.distance import cdist

from eval.detectors.patchknn import PatchKnn
from tests.eval.detectors.reference import smoothed

SIDE = 32


def test_scores_and_maps_equal_scipy():
    rng = np.random.default_rng(0)
    train, test = (rng.normal(0.5, 1, (images, 12, 16, 16)).astype(np.float32) for images in (6, 3))
    detector = PatchKnn(SIDE)
    for first in (0, 4):
        detector.update([torch.zeros(1), torch.from_numpy(train[first : first + 4])])
    detector.fit()
    scores, maps = detector([torch.zeros(1), torch.from_numpy(test)])
    tokens = [array.transpose(0, 2, 3, 1).reshape(len(array), -1, 12) for array in (train, test)]
    for image, score, found in zip(tokens[1], scores, maps, strict=True):
        distances = cdist(image, tokens[0].reshape(-1, 12), "cosine").min(axis=1)
        np.testing.assert_allclose(score, np.sort(distances)[-3:].mean(), rtol=1e-4)  # 1 % of 256 patches
        np.testing.assert_allclose(found, smoothed(distances.reshape(1, 16, 16), SIDE)[0], rtol=1e-4)
