"""The name that results give a data set."""

import pytest

from eval.data.layouts import recognise
from spd_weights.files import write_json
from tests.eval.helpers import visa_tree


def rendered(folder, objects):
    visa_tree(folder, objects)
    write_json(folder / "manifest.json", {"made_by": "synthetic.parts", "version": 2, "arguments": {}})
    return folder


def datasets(root):
    return {source.dataset for source in recognise(root)}


@pytest.mark.parametrize("objects", [("gear",), ("pcb1", "candle")])
def test_rendered_pictures_are_named_after_their_folder_and_never_visa(tmp_path, objects):
    for folder, name in (("parts", "parts"), ("visa", "visa-layout"), ("VisA", "VisA-layout")):
        root = rendered(tmp_path / folder, objects)
        assert datasets(root) == datasets(root / objects[0]) == {name}
