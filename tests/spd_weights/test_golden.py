import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from spd_weights import golden
from spd_weights.checks import check_export
from spd_weights.errors import SpdError
from spd_weights.hub import verify
from spd_weights.release import cards
from spd_weights.release.export import export_backbone
from tests.conftest import RunPython


def test_pattern_is_the_formula_in_exact_arithmetic() -> None:
    drawn = golden.pattern(3, 5, 70)
    for c in range(3):
        for y in range(5):
            for x in range(70):
                value = ((x * (c + 2)) ^ (y * 3) ^ ((x * y) >> (c % 3 + 3))) % 256
                assert drawn[c, y, x] == torch.tensor(value, dtype=torch.float32) / 255
    assert drawn.dtype == torch.float32
    assert len(golden.pattern(3, 64, 64).unique()) > 200


def test_numbers_are_those_of_a_users_feature_maps(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    maps = timm.create_model(f"local-dir:{export}", pretrained=True, features_only=True).eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = maps(((golden.pattern(3, 64, 64) - mean) / std)[None])
    assert len(expected) == len(config["spd"]["golden"])
    for stage, feature_map in zip(config["spd"]["golden"], expected, strict=True):
        assert stage["shape"] == list(feature_map.shape[1:])
        assert stage["norm"] == pytest.approx((feature_map**2).sum().sqrt().item(), rel=1e-5)
        assert stage["mean"] == pytest.approx(feature_map.mean().item(), rel=1e-4, abs=1e-6)
        assert stage["norm"] > 0


def test_tolerance_takes_rounding_and_no_more(export: Path) -> None:
    stages = json.loads((export / "config.json").read_text())["spd"]["golden"]

    def scaled(factor: float) -> list[dict[str, Any]]:
        changed = copy.deepcopy(stages)
        changed[2]["norm"] *= factor
        return changed

    assert golden.difference(stages, scaled(1 + 5e-5)) is None
    assert "layer2 has norm" in str(golden.difference(stages, scaled(1 + 2e-4)))
    assert "layer2 has norm" in str(golden.difference(stages, scaled(float("nan"))))
    assert "names or shapes of the stages" in str(golden.difference(stages, stages[1:]))


def test_other_preprocessing_is_noticed_by_verify(export: Path) -> None:
    path = export / "config.json"
    config = json.loads(path.read_text())
    assert "features as exported" in verify(str(export))
    config["pretrained_cfg"]["mean"][0] += 0.01
    path.write_text(json.dumps(config))
    with pytest.raises(SpdError, match=r"holds the right bytes but gives other features .*act1 has .*mean, std"):
        verify(str(export))


@pytest.mark.parametrize("broken", [[{"stage": "act1"}], 3, None, [3]])
def test_malformed_numbers_are_named(export: Path, broken: Any) -> None:
    path = export / "config.json"
    config = json.loads(path.read_text())
    config["spd"]["golden"] = broken
    path.write_text(json.dumps(config))
    with pytest.raises(SpdError, match=r"spd\.golden must list stages with stage, shape, mean and norm"):
        check_export(export)


def test_installation_that_computes_otherwise_is_noticed(export: Path, run_python: RunPython) -> None:
    code = f"""
import torch
from torch.nn import functional
sound = functional.conv2d
functional.conv2d = torch.conv2d = lambda *args, **kwargs: sound(*args, **kwargs) * 1.001
torch.nn.Conv2d._conv_forward = lambda self, x, w, b: functional.conv2d(
    x, w, b, self.stride, self.padding, self.dilation, self.groups)
from spd_weights.cli import main
raise SystemExit(main(["verify", {str(export)!r}]))
"""
    done = run_python("-c", code)
    assert done.returncode == 2
    assert "this installation computes wrongly" in done.stderr


def test_features_that_are_not_finite_are_not_exported(
    tmp_path: Path, backbone: nn.Module, training: dict[str, Any]
) -> None:
    backbone.bn1.bias.data.fill_(3.4e38)
    backbone.layer1[0].bn2.weight.data.fill_(3.4e38)
    with pytest.raises(SpdError, match="features that are not finite"):
        export_backbone(backbone, tmp_path / "export", training)
    assert not (tmp_path / "export").exists()


def test_health_is_of_a_users_feature_maps(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    stages = json.loads((export / "training.json").read_text())["health"]
    maps = timm.create_model(f"local-dir:{export}", pretrained=True, features_only=True).eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(3, 1, 1) for key in ("mean", "std"))
    seen: list[torch.Tensor] = []
    backbone = timm.create_model(f"local-dir:{export}", pretrained=True)
    backbone.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert golden.health(backbone, config) == stages
    image, noisy = (seen[0] * std + mean) * 255
    assert torch.allclose(image / 255, golden.pattern(3, 64, 64), atol=1e-6)
    assert 1 < (noisy - image).abs().max() < golden.NOISE + 1e-3
    with torch.no_grad():
        pairs = maps(seen[0])
    assert len(pairs) == len(stages)
    for stage, (one, other) in zip(stages, pairs, strict=True):
        assert stage["rms"] == pytest.approx(one.pow(2).mean().sqrt().item(), rel=1e-5)
        cosine = (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0)).clamp_min(1e-8)
        assert stage["cosine"] == pytest.approx(cosine.mean().item(), abs=1e-5)
        assert 0.5 < stage["cosine"] < 1


def test_health_is_on_the_card_beside_the_starts_and_in_verify(export: Path, training: dict[str, Any]) -> None:
    stages = json.loads((export / "training.json").read_text())["health"]
    line = f"| layer2 | {stages[2]['rms']:.4f} | {stages[2]['cosine']:.4f} |"
    assert "The feature health check is not recorded." in cards.render(training)
    assert line in cards.render({**training, "health": stages})
    start = [{**stage, "rms": 9.0} for stage in stages]
    assert f"{line} 9.0000 | {stages[2]['cosine']:.4f} |" in cards.render(
        {**training, "health": stages, "start_health": start}
    )
    assert f"layer2: RMS {stages[2]['rms']:.3f}, cosine under noise {stages[2]['cosine']:.4f}" in verify(str(export))
