"""What the tests of inspection share."""

import pytest

from tests.eval.helpers import mvtec_category, tiny_export


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A category and weights that no test changes."""
    root = tmp_path_factory.mktemp("inspection")
    mvtec_category(root / "set" / "tile", train=20, normal=30)
    tiny_export(root / "run" / "export")
    return root
