"""The name that results give a data set."""

import pytest

from eval.data.layouts import recognise
from spd_weights.files import write_json
from tests.eval.helpers import mvtec_category, visa_tree


def rendered(folder, objects=("gear",), made_by="synthetic.parts"):
    visa_tree(folder, objects)
    write_json(folder / "manifest.json", {"made_by": made_by, "version": 2, "arguments": {}})
    return folder


def datasets(root):
    return {source.dataset for source in recognise(root)}


@pytest.mark.parametrize("folder", ["parts", "visa", "anything else"])
def test_a_rendered_set_is_named_after_its_maker_wherever_it_lies(tmp_path, folder):
    root = rendered(tmp_path / folder)
    assert datasets(root) == datasets(root / "gear") == {"synthetic.parts"}


def test_rendered_objects_with_visas_names_are_not_visa(tmp_path):
    assert datasets(rendered(tmp_path / "a", ("pcb1", "candle"))) == {"synthetic.parts"}
    for made_by in ("VisA", "../elsewhere", "", 7, None):
        assert datasets(rendered(tmp_path / "visa", ("pcb1", "candle"), made_by)) == {"visa-layout"}
    (tmp_path / "visa" / "manifest.json").write_text("no json")
    assert datasets(tmp_path / "visa") == {"visa-layout"}


def test_sets_of_the_same_maker_are_told_apart_by_their_folders(tmp_path):
    rendered(tmp_path / "first")
    rendered(tmp_path / "second")
    mvtec_category(tmp_path / "photographs" / "tile")
    assert datasets(tmp_path) == {"first", "second", "photographs"}
