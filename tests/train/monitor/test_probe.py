"""The linear probe, against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifierCV

from tests.train.helpers import write_photos
from train.monitor.probe import PENALTIES, main, ridge_accuracy


@pytest.mark.parametrize("dims", [12, 90])  # also more dimensions than images
def test_ridge_is_scikit_learns(dims: int):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, dims))
    labels = rng.integers(0, 5, 160)
    x = centres[labels] + 2 * rng.normal(size=(160, dims)) + 3
    train, val = slice(0, 80), slice(80, None)
    accuracy, penalty = ridge_accuracy(*(torch.from_numpy(a) for a in (x[train], labels[train], x[val], labels[val])))
    standard = (x - x[train].mean(0)) / x[train].std(0, ddof=1)
    theirs = RidgeClassifierCV(alphas=[penalty * 80]).fit(standard[train], labels[train])
    assert penalty in PENALTIES
    assert accuracy == pytest.approx(theirs.score(standard[val], labels[val]), abs=1 / 80)
    assert accuracy > 0.4


def test_command_measures_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for part in ("train", "val"):
        for label in ("a", "b"):
            write_photos(tmp_path / part / label, 4)
    out = tmp_path / "probe.json"
    sources = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val")]
    assert main(["--weights", "nothing_like_it", *sources, "--out", str(out)]) == 2
    assert "nothing_like_it" in capsys.readouterr().err
    assert not out.exists()
