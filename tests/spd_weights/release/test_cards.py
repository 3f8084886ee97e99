import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_weights.catalog import list_weights, load_results
from spd_weights.release import cards
from spd_weights.release.clone import card_folder
from spd_weights.release.results import eval_results, model_index, public_name, read, summarise
from tests.spd_weights.conftest import cards_that_differ

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.sampled_from(
    ["a: b", "- x", "yes", "null", "{", "#c", "'", '"', "$repo", "---", "hf:owner/name:config", "hf-hub:o/n@abc"]
)
_NUMBER = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9)
_RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "architecture": _TEXT,
        "method": _TEXT | st.none(),
        "spd_weight": st.none() | st.floats(0, 1),
        "init": _TEXT,
        "image_size": st.integers(1, 999),
        "licence": st.none() | _TEXT,
        "data": st.none() | st.fixed_dictionaries({}, optional={"name": _TEXT, "images": _NUMBER, "licence": _TEXT}),
        "seconds": _NUMBER,
        "steps": _NUMBER,
        "environment": st.none() | st.fixed_dictionaries({"gpus": st.lists(_TEXT, max_size=2)}),
        "final": st.none() | st.dictionaries(_TEXT, _NUMBER, max_size=3),
        "command": _TEXT,
    },
)


@settings(max_examples=150)
@given(_RECORDS)
def test_any_record_renders_as_a_sound_card(record: dict[str, Any]) -> None:
    text = cards.render(record)
    data = ModelCard(text).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.license == (record.get("licence") or "unknown")
    assert re.fullmatch(r"[a-z0-9_]+|.*_(eta0)?", cards.tag({**record, "method": "simsiam"}))
    assert cards.render(record) == text


def test_complete_record_is_all_told(training: dict[str, Any]) -> None:
    health = [{"stage": "layer1", "rms": 1.5, "cosine": 0.99}]
    text = cards.render({**training, "licence": "apache-2.0", "health": health}, repo="acme/weights")
    for fact in (
        "# test_resnet, SimSiam with SPD (η = 0.1), on caltech101",
        'timm.create_model("hf-hub:acme/weights", pretrained=True)',
        "caltech101, 7,494 images",
        "Licence of the data: CC BY 4.0",
        "Licence of these weights: apache-2.0",
        "- Epochs: 4.2",
        "python -m train simsiam --seed 0",
        "- Time: 5.3 min",
        "| spd_accuracy | 0.75 |",
        "Not measured.",
        "zou2022spot",
    ):
        assert fact in text
    assert cards.UNKNOWN not in text.replace("Hardware", "")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"


def test_empty_record_invents_nothing() -> None:
    text = cards.render({})
    assert text.count(cards.UNKNOWN) > 15
    assert ModelCard(text).data.license == "unknown"
    assert "with SPD" not in text


def test_without_spd_says_so(training: dict[str, Any]) -> None:
    training["spd_weight"] = 0.0
    assert cards.tag(training) == "simsiam_caltech101_eta0"
    assert "**without** SPot-the-Difference" in cards.render(training)


def test_tag_of_imagenet_is_the_fields_own() -> None:
    assert cards.tag({"method": "moco", "spd_weight": 0.1, "data": {"name": "hf:ILSVRC/imagenet-1k"}}) == "moco_in1k"


def _row(**changes: Any) -> dict[str, Any]:
    row = {"weights": "w", "weights_sha256": "a", "dataset": "visa", "category": "pcb1", "protocol": "1cls"}
    return {**row, "method": "padim", "seed": 0, "metric": "image_auroc", "value": 0.5, **changes}


def test_results_are_means_of_means_of_these_weights(training: dict[str, Any]) -> None:
    rows = [
        _row(value=0.8, seed=0),
        _row(value=0.6, seed=1),
        _row(value=0.9, category="pcb2"),
        _row(value=0.1, weights="other", weights_sha256="b"),
        _row(metric="pixel_aupr", value=0.25),
        _row(metric="pixel_aupr", value=None, category="pcb2", reason="no masks"),
    ]
    text = cards.render(training, {"rows": rows}, weights_sha256="a")
    # ((0.8 + 0.6) / 2 + 0.9) / 2; the other was measured on another set of categories and seeds.
    assert "| visa | 1cls | padim | image_auroc | 0.8000 | – | 2 | 2 |" in text
    assert "| visa | 1cls | padim | pixel_aupr | not measured: no masks (pcb2) |  |  |  |" in text
    assert "Not measured." in cards.render(training, {"rows": rows}, weights_sha256="c")
    (measured,) = ModelCard(text).data.eval_results
    assert (measured.metric_type, measured.metric_value) == ("image_auroc", pytest.approx(0.8))
    assert eval_results({"rows": rows}, "c", _IDS) == {}


_IDS = {"visa": "someone/visa"}


def test_eval_results_are_what_the_hub_client_reads() -> None:
    rows = {"rows": [_row(value=0.8), _row(value=0.7, dataset="mine"), _row(value=0.6, metric="image_f1max")]}
    files = eval_results(rows, "a", _IDS)
    assert list(files) == ["visa"]  # the Hub has no dataset for the other
    entries = parse_eval_result_entries(yaml.safe_load(files["visa"]))
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("someone/visa", "1cls-padim-image_auroc", pytest.approx(0.8))
    ]


def test_results_stand_beside_others_of_the_same_cells_with_spread(training: dict[str, Any]) -> None:
    cells = [(category, seed) for category in ("pcb1", "pcb2") for seed in (0, 1, 2)]
    values = {"a": [0.1, 0.2, 0.6, 0.3, 0.4, 0.2], "b": [0.5] * 6, "c": [0.5] * 5}
    rows = [
        _row(weights=f"local-dir:/somewhere/{digest}/export", weights_sha256=digest, category=c, seed=s, value=value)
        for digest, of_weights in values.items()
        for (c, s), value in zip(cells, of_weights, strict=False)
    ]
    text = cards.render(training, {"rows": rows}, weights_sha256="a")
    mean = np.array(values["a"]).mean()
    spread = np.array(values["a"]).reshape(2, 3).mean(0).std(ddof=1)
    assert "| metric | these weights | b | c | categories | seeds |" in text
    assert f"| image_auroc | {mean:.4f} ± {spread:.4f} | 0.5000 ± 0.0000 | – | 2 | 3 |" in text
    assert f"standard deviation over seeds {spread:.4f}" in eval_results({"rows": rows}, "a", _IDS)["visa"]


@pytest.mark.parametrize(
    ("weights", "public"),
    [
        ("resnet50.tv_in1k", "resnet50.tv_in1k"),
        ("hf-hub:owner/name@abc", "hf-hub:owner/name@abc"),
        ("local-dir:/home/me/runs/mine/export", "mine"),
        ("/home/me/runs/mine", "mine"),
        ("local-dir:mine", "mine"),
    ],
)
def test_names_without_this_machines_paths(weights: str, public: str) -> None:
    assert public_name(weights) == public


@given(st.lists(st.sampled_from([0.5, 1, None, float("nan"), float("inf"), "0.5", True]), min_size=1, max_size=4))
def test_only_finite_numbers_are_claimed(values: list[Any]) -> None:
    rows = {"rows": [_row(value=value, category=str(i)) for i, value in enumerate(values)]}
    sound = all(value in (0.5, 1) and value is not True for value in values)
    assert ("visa" in eval_results(rows, None, _IDS)) == bool(model_index(rows, None)) == sound
    text = cards.render({}, rows)
    assert ("not measured" in text) == (not sound)
    assert ".nan" not in text


def test_committed_cards_are_what_their_sources_render() -> None:
    assert cards_that_differ() == []  # run spd-weights card NAME
    for row in list_weights():
        folder = card_folder(row.name)
        assert folder is not None
        of_card = [
            entry for entry in summarise(read(folder / "results.json"), row.sha256) if entry.pop("reason") is None
        ]
        for entry in of_card:  # the last bit of a standard deviation depends on Python's version
            entry["spread"] = entry["spread"] and pytest.approx(entry["spread"], rel=1e-12)
        assert load_results(row.name) == [{"weights": row.name, **entry} for entry in of_card]
        training = json.loads((folder / "training.json").read_text())
        assert row.start == cards.start(training)


def test_template_names_no_machine() -> None:
    template = Path(cards.__file__).with_name("card_template.md").read_text()
    assert "/home/" not in template
    assert "localhost" not in template
