"""A config.json from anyone: it is accepted or refused in one sentence, and makes nothing else happen.

While a config is checked, opening a file elsewhere, connecting to a host and unpickling raise an error that no code
of this package catches on the way.
"""

import copy
import json
import pickle
import resource
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spd_weights.checks import MODEL_ARGS, SMALL_FILE, check_export
from spd_weights.errors import SpdError
from spd_weights.hub import verify
from tests.spd_weights.conftest import random_backbone

_CODE_FOLDERS = {
    str(Path(folder).resolve()) for folder in (*sysconfig.get_paths().values(), *sys.path, "/proc") if folder
}
_watched: dict[str, Any] = {"folder": None, "offences": []}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _watched["folder"]
    if folder is None:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen", "os.system"):
        _watched["offences"].append((event, arguments))
    elif event == "open" and isinstance(arguments[0], str):
        path = Path(arguments[0]).resolve()
        if not any(path.is_relative_to(allowed) for allowed in (folder, *_CODE_FOLDERS)):
            _watched["offences"].append((event, arguments))


sys.addaudithook(_watch)


@contextmanager
def _nothing_else_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> Any:
        _watched["offences"].append(("unpickled", ()))
        raise AssertionError("unpickled")

    with monkeypatch.context() as patch:
        for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
            patch.setattr(owner, name, refuse)
        _watched.update(folder=folder, offences=[])
        try:
            yield
        finally:
            _watched["folder"] = None
    assert _watched["offences"] == []


def _write(export: Path, config: Any) -> None:
    (export / "config.json").write_text(json.dumps(config))


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "argument",
    [
        {"checkpoint_path": "PICKLE"},
        {"checkpoint_path": "/etc/hostname"},
        {"pretrained_cfg_overlay": {"file": "PICKLE"}},
        {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
        {"pretrained": True},
        {"cache_dir": "/tmp"},
        {"drop_rate": 0.5},
        {"no_such_argument": 1},
        {"img_size": 10**9},
        {"in_chans": 10**9},
        {"in_chans": True},
        {"num_classes": 5},
    ],
)
def test_model_args_only_describe_the_architecture(
    argument: dict[str, Any], export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": {"x": _Code(tmp_path / "ran")}}, tmp_path / "evil.pth")
    named = json.loads(json.dumps(argument).replace("PICKLE", str(tmp_path / "evil.pth")))
    config = json.loads((export / "config.json").read_text())
    _write(export, {**config, "model_args": {**config["model_args"], **named}})
    for check in (check_export, lambda folder: verify(str(folder))):
        with (
            _nothing_else_happens(export, monkeypatch),
            pytest.raises(SpdError, match=r"config\.json: .*(args|classes)"),
        ):
            check(export)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "cfg",
    [{"file": "/etc/passwd"}, {"url": "http://h/x"}, {"hf_hub_id": "a/b"}, {"custom_load": True}, {"source": "x"}],
)
def test_pretrained_cfg_names_no_other_source(cfg: dict[str, Any], export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    config["pretrained_cfg"].update(cfg)
    _write(export, config)
    with pytest.raises(SpdError, match=f"pretrained_cfg must not hold {next(iter(cfg))}"):
        check_export(export)


@pytest.mark.parametrize(
    "change",
    [
        {"classifier": "conv1.0"},  # timm drops this layer's weights for every num_classes but 0
        {"classifier": ["fc", "conv1.0"]},
        {"classifier": {"fc": 1}},
        {"first_conv": "layer1.0.conv1"},
        {"label_offset": 1},
        {"fixed_input_size": True, "input_size": [3, 2048, 2048]},
        {"interpolation": "random"},
        {"interpolation": ["bilinear"]},
        {"crop_mode": 5},
        {"crop_pct": 0.01},
        {"crop_pct": "all"},
        {"crop_pct": float("nan")},
    ],
)
def test_pretrained_cfg_changes_neither_tensors_nor_images(change: dict[str, Any], export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    config["pretrained_cfg"].update(change)
    _write(export, config)
    with pytest.raises(SpdError, match=r"config\.json: pretrained_cfg") as error:
        check_export(export)
    assert next(iter(change)) in str(error.value)


def test_architecture_is_one_that_plain_timm_has(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    _write(export, {**config, "architecture": "mobilenetv2_100_spd"})
    with pytest.raises(SpdError, match="names mobilenetv2_100_spd, which plain timm lacks"):
        check_export(export)


def test_a_small_file_does_not_take_the_memory_of_a_huge_architecture(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    config["pretrained_cfg"].update(first_conv=None, classifier=None)
    _write(export, {**config, "architecture": "convnext_xxlarge"})  # 3.4 GB
    training = json.loads((export / "training.json").read_text())
    (export / "training.json").write_text(json.dumps({**training, "architecture": "convnext_xxlarge"}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpdError, match=r"does not fit convnext_xxlarge: \d+ values, not 8\d{8}"):
        check_export(export)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # KiB


@pytest.mark.parametrize("name", ["config.json", "training.json", "README.md"])
def test_small_files_are_small(name: str, export: Path) -> None:
    with open(export / name, "a") as file:
        file.write(" " * SMALL_FILE)
    with pytest.raises(SpdError, match=f"{name} is larger than 1048576 bytes"):
        check_export(export)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e39, True, None, "1", 10**400])
@pytest.mark.parametrize("key", ["norm", "mean"])
def test_golden_features_are_finite_numbers(key: str, value: Any, export: Path) -> None:
    """An infinite norm would make every difference tolerable."""
    config = json.loads((export / "config.json").read_text())
    config["spd"]["golden"][1][key] = value
    _write(export, config)
    with pytest.raises(SpdError, match=r"spd\.golden"):
        check_export(export)


def test_deeply_nested_json_is_refused(export: Path) -> None:
    (export / "config.json").write_text("[" * 100_000)
    with pytest.raises(SpdError, match=r"config\.json is not JSON"):
        check_export(export)


_NAMES = st.sampled_from(
    [
        *MODEL_ARGS, "checkpoint_path", "pretrained", "pretrained_cfg", "file", "url", "state_dict", "hf_hub_id",
        "custom_load", "architecture", "test_resnet", "test_vit", "resnet18.a1_in1k", "hf-hub:a/b", "local-dir:/etc",
        "/etc/passwd", "../x", "\0", "\ud800", "é\n",
    ]
)  # fmt: skip
_SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 300) | st.integers() | st.floats() | st.text(max_size=8) | _NAMES
    | st.just(10**400)
)  # fmt: skip
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


@st.composite
def _changed(draw: st.DrawFn, config: Any) -> Any:
    """A sound config with one to three changes: a value replaced, removed or added anywhere."""
    holder = {"root": copy.deepcopy(config)}
    for _ in range(draw(st.integers(1, 3))):
        *path, last = ("root", *draw(st.sampled_from([*_places(holder["root"])])))
        parent: Any = holder
        for key in path:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove" and path:
            del parent[last]
        elif change == "add" and isinstance(parent[last], dict):
            parent[last][draw(_NAMES | st.text(max_size=5))] = draw(_JSON)
        else:
            parent[last] = draw(_JSON)
    return holder["root"]


def _fuzz(export: Path, monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    sound = json.loads((export / "config.json").read_text())
    outcomes = {"accepted": 0, "refused": 0}

    # The same examples each time: accepted configs come in bursts, so their share varies between runs.
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(config=_changed(sound))
    def check(config: Any) -> None:
        _write(export, config)
        with _nothing_else_happens(export, monkeypatch):
            try:
                accepted, refusal = check_export(export), ""
            except SpdError as error:
                accepted, refusal = None, str(error)
        if accepted is None:
            assert refusal.isprintable()
            assert len(refusal) < 1200
            outcomes["refused"] += 1
            return
        outcomes["accepted"] += 1
        assert set(accepted["model_args"]) <= set(MODEL_ARGS)
        for key in ("input_size", "mean", "std"):
            assert len(accepted["pretrained_cfg"][key]) == 3

    check()
    assert outcomes["accepted"] + outcomes["refused"] >= examples
    assert min(outcomes.values()) > examples // 100, outcomes
    print(outcomes)


def test_changed_configs_are_accepted_or_refused_in_one_sentence(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fuzz(export, monkeypatch, 300)


@pytest.mark.slow
def test_ten_thousand_changed_configs(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fuzz(export, monkeypatch, 10_000)


@pytest.mark.slow
@settings(max_examples=3000, suppress_health_check=list(HealthCheck), database=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_that_are_no_config(export: Path, content: bytes) -> None:
    (export / "config.json").write_bytes(content)
    with pytest.raises(SpdError):
        check_export(export)


def test_the_watch_sees_what_it_must(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch itself: opening a file elsewhere or unpickling fails the test."""
    torch.save(random_backbone().state_dict(), tmp_path / "x.pth")
    for offence in (lambda: open("/etc/hostname").close(), lambda: torch.load(tmp_path / "x.pth")):
        with pytest.raises(AssertionError), _nothing_else_happens(export, monkeypatch):
            offence()
