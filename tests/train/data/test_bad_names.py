"""Names of data that cannot be data."""

from pathlib import Path

import pytest

from spd_weights.errors import SpdError
from train.data.sources import open_images


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "'': no such folder"),  # not the current folder
        ("nowhere", "nowhere: no such folder"),
        ("notes.txt", "notes.txt: a file; name a folder"),
        ("hf:", "hf:: no data set is named"),
    ],
)
def test_name_that_is_no_data_is_refused(source: str, message: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpdError, match=message):
        open_images(source, labelled=False)
