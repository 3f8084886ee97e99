"""What a step changes: once per step however many parts, and nothing at all if it is skipped."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train.loop
from spd_weights.errors import SpdError
from tests.train.helpers import metrics, recipe_config, small_config
from train.config import Config
from train.loop import pretrain
from train.setup import begin


def config(classes: Path, out: Path, **optim: object) -> Config:
    """MoCo on a backbone without batch norm, which would see each part on its own."""
    made = recipe_config("moco", classes, out, 0.1, optim=optim)
    moco = dataclasses.replace(made.moco, momentum=0.9)
    return dataclasses.replace(made, model=dataclasses.replace(made.model, arch="test_vit"), moco=moco)


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_a_step_in_parts_moves_mocos_key_encoder_and_queue_once(classes: Path, tmp_path: Path):
    for parts in (1, 4):
        pretrain(config(classes, tmp_path / str(parts), accumulate=parts, lr=0.3))
    whole, parts = (state(tmp_path / name, 6) for name in ("1", "4"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    for one, other in zip(metrics(tmp_path / "1"), metrics(tmp_path / "4"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["effective_rank"] == pytest.approx(other["effective_rank"], rel=1e-3)


def test_skipped_steps_leave_everything_as_it_was(classes: Path, tmp_path: Path):
    """Weights, the key encoder and the queue."""
    with pytest.raises(SpdError, match=r"saved in .* after step 11"):
        pretrain(config(classes, tmp_path / "run", epochs=20, lr=1e30))
    with pytest.raises(SpdError, match="the training diverged"):  # saved, but not exported
        pretrain(config(classes, tmp_path / "one", epochs=20, lr=1e30, max_steps=1))
    before, after = state(tmp_path / "one", 1), state(tmp_path / "run", 11)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_gpu_has_the_next_views_to_make_while_the_cpu_reads_how_a_step_went(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And the weights wait for the answer: a step that blew up must not change them."""
    happened: list[str] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            happened.append(name)
            return function(*arguments)

        return call

    agree = train.loop.agree
    monkeypatch.setattr(train.loop, "parts_of", recorded("views", train.loop.parts_of))
    monkeypatch.setattr(train.loop, "agree", lambda *arguments: recorded("read", agree(*arguments)))
    monkeypatch.setattr(torch.optim.SGD, "step", recorded("step", torch.optim.SGD.step))
    pretrain(small_config(photos, tmp_path / "run"))
    ordered = "views " + 5 * "views read step " + "read step"
    assert happened == ordered.split()


def test_a_batch_that_does_not_fit_on_the_gpu_is_an_error_with_its_mends(photos: Path, tmp_path: Path):
    run = begin(small_config(photos, tmp_path / "run"))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    run.method.register_forward_pre_hook(full)
    with pytest.raises(SpdError, match="8 images in one pass do not fit on the GPU"):
        train.loop.forward_backward(run, iter([{}]))
