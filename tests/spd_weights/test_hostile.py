"""Names and files made to hurt: each ends in one clear error, and nothing is written anywhere else."""

import contextlib
import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from spd_weights.catalog import find, load_catalog
from spd_weights.checks import WEIGHTS, check_export
from spd_weights.cli import main
from spd_weights.errors import SpdError
from spd_weights.files import digest_of, sha256
from spd_weights.hub import pull, verify
from spd_weights.release.bundle import bundle
from spd_weights.release.publish import publish
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

_PIECES = (
    "..", "/", "\\", "@", ":", "~", "%2e%2e", "\0", "\n", "é", "\u202e", "😀", " ", ".", "a", "owner", "hf-hub:", "-",
)  # fmt: skip
_NAMES = (
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join)
    | st.text(min_size=1, max_size=40)
    | st.sampled_from(
        [
            "..", "../..", "/etc/passwd", "//", "a/b@c@d", "owner/name@main", "../../etc/passwd", "a" * 10_000,
            "a/" + "b" * 10_000, "a/b/c", "C:\\Windows", "owner/..", "-o/-x", "owner/name.git",
        ]
    )
)  # fmt: skip
_LENIENT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _one_clear_error(call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(SpdError) as error:
        call(*args, **kwargs)
    _check(error.value)


def _check(error: SpdError) -> None:
    assert str(error).isprintable(), error
    assert len(str(error)) < 1200, error


@_LENIENT
@given(name=_NAMES)
def test_hostile_names_are_refused(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for call in (find, pull, verify, lambda given: publish(tmp_path, given), lambda given: publish(Path(given), "a/b")):
        _one_clear_error(call, name)
    _one_clear_error(lambda: pull("owner/name", revision=name))
    with pytest.raises((SpdError, RuntimeError, ValueError)):
        timm.create_model(f"resnet50_spd.{name}", pretrained=True)
    with contextlib.suppress(SystemExit):  # argparse, of a name that starts with a hyphen
        assert main(["pull", name]) == 2
    assert sorted(tmp_path.rglob("*")) == before


@_LENIENT
@given(name=_NAMES)
def test_hostile_names_do_not_become_folders(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    catalog = tmp_path / "clone" / "package" / "catalog.json"
    if not catalog.is_file():
        catalog.parent.mkdir(parents=True)
        (tmp_path / "clone" / "model_cards").mkdir()
        catalog.write_text('{"schema": 1, "rows": []}')
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(catalog))
    before = sorted(tmp_path.rglob("*"))
    _one_clear_error(bundle, export, name)
    assert sorted(tmp_path.rglob("*")) == before


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | _NAMES | st.lists(st.integers(), max_size=2)


@_LENIENT
@given(
    changes=st.dictionaries(st.sampled_from([*asdict(find("resnet50_spd")), "more"]), _VALUES, min_size=1, max_size=4)
)
def test_a_catalog_row_is_sound_or_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    pins = {"repo": "a/b", "revision": "a" * 40, "file": "model.safetensors", "bytes": 1, "sha256": "b" * 64}
    pins |= {"config_sha256": "c" * 64, "status": "released", "counterpart": None}
    pins |= {"preprocessing": {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"schema": 1, "rows": [{**asdict(find("resnet50_spd")), **pins, **changes}]}))
    try:
        (row,) = load_catalog(path).values()
    except SpdError as error:
        _check(error)
        return
    inside = (tmp_path / "cache" / str(row.file)).resolve()
    assert inside.is_relative_to((tmp_path / "cache").resolve())
    assert row.name.isascii()


def _header(content: bytes, change: Any) -> bytes:
    """The same file with a changed header."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + size :]


def _tensor(**changes: Any) -> Any:
    return lambda content: _header(content, lambda header: header["conv1.0.weight"].update(changes))


def _share_bytes(header: dict[str, Any]) -> None:
    header["conv1.0.weight"]["data_offsets"] = header["conv1.3.weight"]["data_offsets"]


_LIES: dict[str, Any] = {
    "empty file": lambda content: b"",
    "eight bytes": lambda content: content[:8],
    "header of 16 EiB": lambda content: b"\xff" * 8 + content[8:],
    "header of 100 GB": lambda content: struct.pack("<Q", 10**11) + content[8:],
    "header that is no JSON": lambda content: content[:8] + b"!" + content[9:],
    "header that is a list": lambda content: struct.pack("<Q", 2) + b"[]",
    "no tensors": lambda content: struct.pack("<Q", 2) + b"{}",
    "half of the file": lambda content: content[: len(content) // 2],
    "bytes after the last tensor": lambda content: content + b"more",
    "tensor of 8 EB": _tensor(shape=[10**9, 10**9]),
    "shape that overflows": _tensor(shape=[2**63, 2]),
    "negative shape": _tensor(shape=[-1, 3, 3, 3]),
    "offsets beyond the file": _tensor(data_offsets=[0, 10**15]),
    "offsets backwards": _tensor(data_offsets=[100, 0]),
    "two tensors of the same bytes": lambda content: _header(content, _share_bytes),
    "unknown dtype": _tensor(dtype="F31"),
    "dtype that colours the terminal": _tensor(dtype="\x1b[31m"),
    "another dtype of the same size": _tensor(dtype="I32"),
    "a tensor missing": lambda content: _header(content, lambda header: header.pop("conv1.0.weight")),
}


def _saved(change: Any) -> Any:
    """The file written anew with changed tensors: sound in itself."""

    def rewrite(content: bytes) -> bytes:
        tensors = load(content)
        tensors["conv1.0.weight"] = change(tensors["conv1.0.weight"])
        return save(tensors, metadata={"format": "pt"})

    return rewrite


_LIES |= {
    "whole numbers for weights": _saved(lambda value: (value * 100).to(torch.int8)),
    # Made from float64, which takes as many bytes: the writer of safetensors 0.5 knows no complex numbers.
    "complex numbers": lambda content: _tensor(dtype="C64")(_saved(lambda value: value.double())(content)),
    "eight-bit floats": _saved(lambda value: value.to(torch.float8_e5m2)),
    "a name that colours the terminal": lambda content: save({**load(content), "\x1b[31m": torch.ones(1)}),
    "float64": _saved(lambda value: value.double()),
    "bfloat16": _saved(lambda value: value.bfloat16()),
    "another shape": _saved(lambda value: value[:1].clone()),
    "not a number": _saved(lambda value: value * float("nan")),
}


@pytest.mark.parametrize("lie", _LIES)
def test_safetensors_that_lie_are_refused(lie: str, hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)
    weights = export / "model.safetensors"
    content = _LIES[lie](weights.read_bytes())
    weights.write_bytes(content)
    config = json.loads((export / "config.json").read_text())
    config["spd"]["sha256"] = sha256(weights)  # a liar would state that, too
    (export / "config.json").write_text(json.dumps(config))
    for call in (lambda: check_export(export), lambda: verify(str(export)), lambda: publish(export, repo)):
        _one_clear_error(call)
    files = {name: (export / name).read_bytes() for name in ("model.safetensors", "config.json")}
    entries = {name: {**hub.store.add_blob(file), "lfs": name == WEIGHTS} for name, file in files.items()}
    commit = hub.store.commit(repo, "main", "lies", entries, [])
    pins = {"revision": commit, "bytes": len(content), "sha256": digest_of(content)}
    _one_clear_error(lambda: pull(repo))
    _one_clear_error(lambda: pull(replace(row, **pins, config_sha256=digest_of(files["config.json"]))))
    assert pull(row).is_dir()  # the pinned commit is as it was
