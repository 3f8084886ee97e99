import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from spd_weights.catalog import default_row, find, list_weights, load_catalog, load_results
from spd_weights.errors import SpdError

_PINS = {"repo": "acme/w", "revision": "a" * 40, "file": "model.safetensors", "bytes": 9, "sha256": "b" * 64}
_PINS |= {"config_sha256": "c" * 64}
_OWN = {"preprocessing": {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}}


def _write(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps({"schema": 1, "rows": rows}))
    return path


def _row(**changes: object) -> dict[str, Any]:
    return {**asdict(find("resnet50_spd.simsiam_in1k")), "counterpart": None, **changes}


def test_the_papers_set_is_there_in_pairs() -> None:
    rows = {name: row for name, row in load_catalog().items() if row.data == "imagenet-1k"}
    expected = {("resnet50", method) for method in ("simsiam", "moco", "simclr", "supervised")}
    expected |= {("wide_resnet50_2", method) for method in ("simsiam", "supervised")}
    assert {(row.architecture, row.method) for row in rows.values()} == expected
    for row in rows.values():
        assert row.tag == f"{row.method}_in1k" + ("" if row.spd_weight else "_eta0")
        assert row.counterpart == (f"{row.name}_eta0" if row.spd_weight else None)
    assert len(rows) == 12


def test_bundled_weights_are_small() -> None:
    assert sum(row.bytes or 0 for row in load_catalog().values() if row.status == "bundled") <= 15_000_000


def test_bare_name_is_the_one_with_spd() -> None:
    assert find("resnet50_spd").name == "resnet50_spd.simsiam_in1k"
    with pytest.raises(SpdError, match=r"it has resnet50_spd\.simsiam_in1k, "):
        find("resnet50_spd.dino")
    with pytest.raises(SpdError, match="'resnet9' is not in the catalog"):
        find("resnet9")


def test_default_prefers_weights_but_never_without_spd(tmp_path: Path) -> None:
    planned = _row()
    reference = _row(name="resnet50_spd.simsiam_in1k_eta0", spd_weight=0, status="released", **_PINS, **_OWN)
    released = _row(name="resnet50_spd.moco_in1k", method="moco", status="released", **_PINS, **_OWN)
    rows = load_catalog(_write(tmp_path / "c.json", planned, reference))
    assert default_row(rows, "resnet50_spd").name == "resnet50_spd.simsiam_in1k"
    rows = load_catalog(_write(tmp_path / "c.json", reference, planned, released))
    assert default_row(rows, "resnet50_spd").name == "resnet50_spd.moco_in1k"


def test_own_catalog_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = _row(name="resnet50_spd.adapt_steel", status="released", **_PINS, **_OWN)
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(_write(tmp_path / "own.json", row)))
    assert asdict(find("resnet50_spd")) == row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"status": "released", **_OWN, **_PINS, pin: None}, f"{pin} is None") for pin in _PINS),
        ({"status": "released", **_OWN, **_PINS, "revision": "main"}, "revision is 'main'"),
        ({"status": "released", **_OWN, **_PINS, "revision": "A" * 40}, "revision is"),
        ({"status": "released", **_OWN, **_PINS, "sha256": "b" * 63}, "sha256 is"),
        ({"status": "released", **_OWN, **_PINS, "bytes": "9"}, "bytes is '9'"),
        ({"status": "released", **_OWN, **_PINS, "bytes": True}, "bytes is True"),
        ({"status": "released", **_OWN, **_PINS, "file": "model.bin"}, "file is"),
        ({"status": "bundled", **_OWN, **_PINS}, "repo must be null in a bundled row"),
        ({"sha256": "b" * 64}, "sha256 must be null in a planned row"),
        ({"status": "soon"}, "status must be one of"),
        ({"method": "dino"}, "method must be one of"),
        ({"spd_weight": "0.1"}, "spd_weight must be a number"),
        ({"spd_weight": float("nan")}, "spd_weight must be a number"),
        ({"spd_weight": True}, "spd_weight must be a number"),
        ({"spd_weight": 0}, "_eta0 if and only if spd_weight is 0"),
        ({"name": "resnet50.simsiam_in1k"}, "the name must have the form"),
        ({"architecture": "resnet18"}, "the name must have the form"),
        ({"description": ""}, "description must be a string"),
        ({"licence": 3}, "licence must be a string or null"),
        ({"status": "released", **_PINS}, "preprocessing must be null in a planned row, and only there"),
        (_OWN, "preprocessing must be null in a planned row, and only there"),
        (
            {"status": "released", **_PINS, "preprocessing": {**_OWN["preprocessing"], "mean": [0.5]}},
            "one mean and std",
        ),
        ({"start": {"source": "x"}}, "start must be null or an object with strings"),
        ({"start": {"weights": "x", "licence": None}}, "start must be null or an object with strings"),
        ({"counterpart": "resnet50_spd.none"}, "its counterpart 'resnet50_spd.none' is not in the catalog"),
        ({"extra": 1}, "missing or unknown fields: extra"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    row = _row(**changes)
    with pytest.raises(SpdError, match=message) as error:
        load_catalog(_write(tmp_path / "c.json", row))
    assert str(tmp_path / "c.json") in str(error.value)
    assert repr(row["name"]) in str(error.value)


def test_malformed_file_is_named(tmp_path: Path) -> None:
    for content in ('{"rows": []}', '{"schema": 1, "rows": {}}', "[]", "{"):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(SpdError, match=r"c\.json"):
            load_catalog(tmp_path / "c.json")
    for rows in (["resnet50"], [_row(), _row()]):
        with pytest.raises(SpdError, match=r"not an object|twice"):
            load_catalog(_write(tmp_path / "c.json", *rows))
    with pytest.raises(SpdError, match=r"none\.json cannot be read"):
        load_catalog(tmp_path / "none.json")


_ENTRY = {"dataset": "d", "protocol": "1cls", "method": "padim", "metric": "image_auroc", "value": 0.5}
_ENTRY |= {"categories": 2, "seeds": 1, "spread": None}


def test_results_lie_beside_their_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(_write(tmp_path / "own.json", _row())))
    assert load_results() == []
    table = {"schema": 1, "weights": {"resnet50_spd.simsiam_in1k": [_ENTRY], "another": [_ENTRY]}}
    (tmp_path / "own_results.json").write_text(json.dumps(table))
    assert load_results("resnet50_spd") == [{"weights": "resnet50_spd.simsiam_in1k", **_ENTRY}]
    assert len(load_results()) == 2
    with pytest.raises(SpdError, match="'resnet9' is not in the catalog"):
        load_results("resnet9")
    for broken in ({"value": "0.5"}, {"value": float("nan")}, {"more": 1}):
        table["weights"] = {"another": [{**_ENTRY, **broken}]}
        (tmp_path / "own_results.json").write_text(json.dumps(table))
        with pytest.raises(SpdError, match=r"own_results\.json is not a results file"):
            load_results()


def test_existing_weights_are_listed_first_and_plans_on_request() -> None:
    existing = list_weights()
    assert existing
    assert all(row.status != "planned" for row in existing)
    assert list_weights(planned=True)[: len(existing)] == existing
    assert len(list_weights(planned=True)) == len(load_catalog())
    assert {entry["weights"] for entry in load_results()} <= {row.name for row in existing}
