import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from spd_weights.cli import main
from spd_weights.errors import SpdError
from spd_weights.release.convert import convert
from tests.spd_weights.conftest import random_backbone

_State = dict[str, torch.Tensor]


def _prefixed(prefix: str, state: _State) -> _State:
    return {prefix + key: value for key, value in state.items()}


def _sequential(state: _State) -> _State:
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([numbers[key.split(".")[0]], *key.split(".")[1:]]): value for key, value in state.items()}


_HEAD = {"fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}
_LAYOUTS: dict[str, Any] = {
    "torchvision": lambda s: {**s, **_HEAD},
    "simsiam": lambda s: {
        "epoch": 100,
        "arch": "resnet18",
        "state_dict": {
            **_prefixed("module.encoder.", {**s, "fc.0.weight": torch.ones(4, 4)}),
            "module.predictor.0.weight": torch.ones(2, 2),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "moco": lambda s: {
        "state_dict": {
            **_prefixed("module.encoder_k.", {key: value + 1 for key, value in s.items()}),
            **_prefixed("module.encoder_q.", {**s, "fc.0.weight": torch.ones(4, 4)}),
            "module.queue": torch.ones(8, 8),
        }
    },
    "simclr": lambda s: {"model_state_dict": {**_prefixed("encoder.", s), "projector.0.weight": torch.ones(2, 2)}},
    "lightly": lambda s: {
        "state_dict": {**_prefixed("backbone.", _sequential(s)), "projection_head.layers.0.weight": torch.ones(2, 2)}
    },
    "solo-learn": lambda s: {
        "state_dict": {
            **_prefixed("momentum_backbone.", {key: value + 1 for key, value in s.items()}),
            **_prefixed("backbone.", s),
            "classifier.weight": torch.ones(2, 2),
        }
    },
}


@pytest.fixture(scope="module")
def state() -> _State:
    return random_backbone("resnet18").state_dict()


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_layouts_give_the_backbone_to_the_bit(layout: str, state: _State, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    content = _LAYOUTS[layout](state)
    torch.save(content, file)
    done = convert(file, "resnet18", tmp_path / "export")
    saved = load_file(done.directory / "model.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[key], state[key]) for key in state)
    tensors = content.get("state_dict") or content.get("model_state_dict") or content
    assert len(done.dropped) == len(tensors) - len(state)
    assert not [key for key in done.dropped if "layer1" in key and "momentum" not in key and "encoder_k" not in key]
    training = json.loads((done.directory / "training.json").read_text())
    assert (training["converted"]["file"], training["method"]) == ("checkpoint.pth", None)


def test_command_names_what_was_dropped(state: _State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({**state, "fc.weight": torch.ones(10, 512)}, tmp_path / "r18.safetensors")
    assert main(["convert", str(tmp_path / "r18.safetensors"), "--arch", "resnet18"]) == 0
    assert "dropped, not part of the backbone: fc.weight\n" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'r18'}", pretrained=True)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    assert main(["verify", str(tmp_path / "r18")]) == 0
    assert main(["publish", str(tmp_path / "r18"), "--repo", "acme/x", "--dry-run"]) == 2
    assert "does not record method, spd_weight, data.name" in capsys.readouterr().err


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_code_is_refused_and_not_run(state: _State, tmp_path: Path, legacy: bool) -> None:
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"state_dict": state, "x": _Code(marker)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(SpdError, match="holds more than tensors"):
        convert(file, "resnet18", tmp_path / "export")
    file.write_bytes(pickle.dumps(_Code(marker)))
    with pytest.raises(SpdError, match=r"evil\.pth"):
        convert(file, "resnet18", tmp_path / "export")
    assert not marker.exists()
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"end of the notes", b"PK\x03\x04" + b"\0" * 40, b"\x80\x02."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_checkpoint_is_one_sentence(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"bad.{suffix}"
    file.write_bytes(content)
    with pytest.raises(SpdError, match=r"bad\.") as error:
        convert(file, "resnet18", tmp_path / "export")
    assert re.search("[a-z]{4}", str(error.value).rpartition("(")[2])  # not only a number


def test_names_in_a_checkpoint_are_printed_as_text(
    state: _State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({**state, "\x1b[31mhead": torch.ones(1)}, tmp_path / "x.safetensors")
    assert main(["convert", str(tmp_path / "x.safetensors"), "--arch", "resnet18"]) == 0
    save_file({"\x1b[31mhead": torch.ones(1)}, tmp_path / "y.safetensors")
    assert main(["convert", str(tmp_path / "y.safetensors"), "--arch", "resnet18"]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())


def test_another_architecture_is_named(state: _State, tmp_path: Path) -> None:
    file = tmp_path / "r18.pth"
    torch.save(state, file)
    for architecture, message in (
        ("resnet34", "holds no resnet34: .* tensors are missing, the first is layer1.2"),
        ("wide_resnet50_2", "holds no wide_resnet50_2"),
        ("resnet9000", "no architecture 'resnet9000'"),
    ):
        with pytest.raises(SpdError, match=message):
            convert(file, architecture, tmp_path / "export")
    torch.save({**state, "layer4.0.conv1.weight": torch.ones(3)}, file)
    with pytest.raises(SpdError, match=r"another architecture than resnet18: layer4\.0\.conv1\.weight has the shape"):
        convert(file, "resnet18", tmp_path / "export")
    torch.save([1], file)
    with pytest.raises(SpdError, match="holds a list, not tensors"):
        convert(file, "resnet18", tmp_path / "export")
    with pytest.raises(SpdError, match="is not a file"):
        convert(tmp_path / "none.pth", "resnet18", tmp_path / "export")
