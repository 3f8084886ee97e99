"""training.json and results.json of an export from anyone: rendered, or refused in one sentence."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spd_weights.errors import SpdError
from spd_weights.release import cards, results
from spd_weights.release.record import read_record

_VALUES = [True, -1, 10**400, float("nan"), "", "\x1b[31m", "a\nb", [], [1], [None], {}, {"a": 1}, {"name": 3}]
_HEALTH = [{"stage": "layer1", "rms": 1.5, "cosine": 0.99}]
_ROW = {
    "weights": "runs/x/export", "weights_sha256": "a" * 64, "dataset": "visa", "category": "pcb1", "protocol": "1cls",
    "method": "padim", "metric": "image_auroc", "seed": 0, "value": 0.5, "reason": None,
}  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _changed(content: Any) -> Iterator[Any]:
    """The content with each of its values removed, and replaced by each of _VALUES."""
    for *path, last in _places(content):
        for value in (..., None, *_VALUES):
            changed = copy.deepcopy(content)
            parent = changed
            for key in path:
                parent = parent[key]
            if value is not ...:
                parent[last] = value
            else:
                del parent[last]
            yield changed


def _outcome(file: Path, content: Any, use: Any) -> bool:
    file.write_text(json.dumps(content))
    refusal = ""
    try:
        use()
    except SpdError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(refusal) < 1200
    return not refusal


def test_any_training_record(training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_anomalib", lambda _: dict.fromkeys(("padim_layers", "patchcore_layers", "n_features")))
    start = {"start": {"source": "the Hub"}, "init": "resnet18", "health": _HEALTH, "start_health": _HEALTH}
    file = tmp_path / "training.json"
    outcomes = [
        _outcome(file, record, lambda: cards.render(read_record(file))) for record in _changed(training | start)
    ]
    assert outcomes.count(True) > 100
    assert outcomes.count(False) > 300


def test_any_results(tmp_path: Path) -> None:
    content = {"schema": 1, "config": {"data": "/x/visa", "weights": {"w": {}}}, "rows": [_ROW, {**_ROW, "seed": 1}]}
    file = tmp_path / "results.json"

    def use() -> None:
        read = results.read(file)
        results.markdown(read, "a" * 64)
        results.eval_results(read, None, {"visa": "acme/visa"})
        results.model_index(read, None)

    outcomes = [_outcome(file, changed, use) for changed in _changed(content)]
    assert outcomes.count(True) > 30
    assert outcomes.count(False) > 100


def test_the_message_names_the_fact(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    for record, words in (
        ({"health": [{"stage": "a"}, {"stage": 3}]}, r"health\[1\]\.stage is 3, not a text in one line"),
        ({"environment": {"packages": {"torch": 2}}}, r"environment\.packages\.torch is 2, not a text"),
        ({"data": []}, "data is not an object"),
        ({"seconds": True}, "seconds is True, not a finite number"),
    ):
        file.write_text(json.dumps(record))
        with pytest.raises(SpdError, match=f"training.json is not the record of a run: {words}"):
            read_record(file)
