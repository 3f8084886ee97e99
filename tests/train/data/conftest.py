"""Shards on disk."""

from pathlib import Path

import pytest

from tests.train.data.helpers import write_parquet


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "shards")
