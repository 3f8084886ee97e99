"""What a command that cannot work says."""

import ast
import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.train.helpers import arguments, run_train, write_photos
from train import config, recipes
from train.__main__ import main

Fails = Callable[..., str]


@pytest.fixture
def fails_with(capfd: pytest.CaptureFixture[str]) -> Fails:
    """Call the command line, which must end with exit code 2; gives back what it said."""

    def call(*args: str) -> str:
        try:
            code = main(args)
        except SystemExit as exit:  # the option parser's way out
            code = exit.code
        assert code == 2
        return capfd.readouterr().err

    return call


@pytest.mark.parametrize("module", [config, recipes])
def test_each_line_of_the_help_is_a_sentence(module: ModuleType) -> None:
    """The option parser keeps line breaks of help texts: a break inside a sentence leaves a ragged paragraph."""
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    texts = [
        after.value.value
        for node in classes
        for option, after in itertools.pairwise(node.body)
        if isinstance(option, ast.AnnAssign) and isinstance(after, ast.Expr)
    ]
    assert len(texts) > 10
    assert [line for text in texts for line in text.splitlines() if not line.endswith(".")] == []


def test_a_missing_folder_is_named_and_nothing_is_left(tmp_path: Path):
    result = run_train(*arguments(tmp_path / "absent", tmp_path / "run"))
    assert result.returncode == 2
    assert "no such folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_explained(fails_with: Fails):
    assert "--optim.lerning-rate" in fails_with("simsiam", "--optim.lerning-rate", "1")


def test_too_many_bad_images_stop_the_run_and_few_do_not(
    tmp_path: Path, fails_with: Fails, capfd: pytest.CaptureFixture[str]
):
    photos = write_photos(tmp_path / "photos", 20)
    (photos / "005.jpg").write_text("not an image")
    (photos / "006.jpg").write_bytes((photos / "006.jpg").read_bytes()[:150])
    assert main(arguments(photos, tmp_path / "few")) == 0
    skipped = [line for line in capfd.readouterr().err.splitlines() if "skipped an unreadable image" in line]
    assert len(skipped) == 2  # named once each, though every epoch meets them
    assert "005.jpg" in "".join(skipped)
    assert "006.jpg" in "".join(skipped)
    assert json.loads((tmp_path / "few/export/training.json").read_text())["data"]["unreadable"] == 2
    for i in range(8, 14):
        next(photos.glob(f"{i:03d}.*")).write_text("not an image")
    message = fails_with(*arguments(photos, tmp_path / "many"))
    assert "of the 20 images" in message
    assert "max-bad-fraction" in message
    assert not (tmp_path / "many" / "export").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model.arch", "resnet81"), "resnet81"),
        (("--model.init", "local-dir:/nowhere"), "/nowhere"),
        (("--optim.batch-size", "25"), "25 is larger than the dataset, which has 24 images"),
        (("--data.image-size", "8"), "--data.image-size 8"),
    ],
)
def test_what_cannot_work_is_said(
    photos: Path, tmp_path: Path, change: tuple[str, str], message: str, fails_with: Fails
):
    assert message in fails_with(*arguments(photos, tmp_path / "run"), *change)
