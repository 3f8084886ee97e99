"""A checkpoint is complete or absent, and gives back what was put in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from spd_weights.errors import SpdError
from train import checkpoint
from train.checkpoint import Checkpoint


def trained(seed: int = 0, momentum: float = 0.9) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "constant_lr": True}, {"params": model[1:].parameters()}],
        lr=0.1,
        momentum=momentum,
    )
    for _ in range(3):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int, keep: int = 5, seed: int = 0) -> Path:
    model, optimizer = trained(seed)
    return checkpoint.save(folder, Checkpoint(step, model.state_dict(), optimizer.state_dict(), {"n": step}), keep)


def test_what_is_read_is_what_was_written(tmp_path: Path):
    model, optimizer = trained()
    written = Checkpoint(7, model.state_dict(), optimizer.state_dict(), {"seconds": 1.5, "bad": {"3": "x.jpg"}})
    checkpoint.save(tmp_path, written, keep=1)
    read = checkpoint.load_newest(tmp_path)
    assert (read.step, read.progress) == (7, written.progress)
    other, other_optimizer = trained(seed=1)
    checkpoint.restore(read, other, other_optimizer)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    before, after = optimizer.state_dict(), other_optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for i, entry in before["state"].items():
        assert torch.equal(entry["momentum_buffer"], after["state"][i]["momentum_buffer"])


def test_adam_state_with_step_tensors_survives(tmp_path: Path):
    model, _ = trained()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    checkpoint.save(tmp_path, Checkpoint(1, model.state_dict(), optimizer.state_dict(), {}), keep=1)
    other = torch.optim.AdamW(model.parameters())
    checkpoint.restore(checkpoint.load_newest(tmp_path), model, other)
    assert other.state_dict()["state"][0]["step"] == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimisers_of_channels_last_parameters_resume_to_the_bit(kind: type, tmp_path: Path):
    """Files hold momenta contiguous; fused kernels take the parameter's strides for granted."""

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return model, kind(model.parameters(), lr=0.1, fused=True, **options)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        images = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(seed))
        model(images.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, optimizer = build()
    for seed in range(3):
        step(whole, optimizer, seed)
    checkpoint.save(tmp_path, Checkpoint(3, whole.state_dict(), optimizer.state_dict(), {}), keep=1)
    resumed, resumed_optimizer = build()
    checkpoint.restore(checkpoint.load_newest(tmp_path), resumed, resumed_optimizer)
    for model, its in ((whole, optimizer), (resumed, resumed_optimizer)):
        for seed in (3, 4):
            step(model, its, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (10, 20, 100, 1000):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000100", "step-00001000"]
    assert checkpoint.load_newest(tmp_path).step == 1000


def test_milestones_stay_for_good(tmp_path: Path):
    for step in (10, 20, 30, 40, 50, 60):
        model, optimizer = trained()
        state = Checkpoint(step, model.state_dict(), optimizer.state_dict(), {})
        checkpoint.save(tmp_path, state, keep=1, milestone_every=20)
    assert sorted(int(p.name[5:]) for p in tmp_path.iterdir()) == [20, 40, 60]


def test_a_damaged_newer_checkpoint_does_not_push_out_the_good_one(tmp_path: Path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "model.safetensors").unlink()
    assert checkpoint.load_newest(tmp_path, lambda message: None).step == 1
    save(tmp_path, 1, keep=1)  # the run goes on from step 1 and saves before it gets to step 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.load_newest(tmp_path).step == 1


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    save(tmp_path, 3)
    other = nn.Linear(4, 5)
    with pytest.raises(SpdError, match="step 3 holds a different model"):
        checkpoint.restore(checkpoint.load_newest(tmp_path), other, torch.optim.SGD(other.parameters()))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(tmp_path: Path, name: str, harm: str):
    save(tmp_path, 1)
    file = save(tmp_path, 2, seed=1) / name
    content = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    else:
        middle = len(content) // 2
        content[middle] ^= 0xFF
        file.write_bytes(bytes(content) if harm == "flip" else bytes(content[:middle]))
    warnings: list[str] = []
    assert checkpoint.load_newest(tmp_path, warnings.append).step == 1
    assert "step-00000002" in warnings[0]


def test_leftovers_of_a_save_that_was_killed_are_not_taken_for_a_checkpoint(tmp_path: Path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    newest.rename(tmp_path / ".step-00000002.tmp")
    assert checkpoint.load_newest(tmp_path).step == 1
    save(tmp_path, 2)
    assert checkpoint.load_newest(tmp_path).step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_an_empty_folder_has_none(tmp_path: Path):
    assert checkpoint.load_newest(tmp_path / "absent") is None
