"""Weights by every kind of name; damaged or incomplete ones never become a random network."""

import json
import shutil

import pytest
import timm
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from eval.backbone.features import Extractor
from eval.backbone.weights import fingerprint, load_backbone
from spd_weights.errors import SpdError
from spd_weights.files import sha256
from tests.eval.helpers import ARCH, tiny_export

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return tiny_export(tmp_path_factory.mktemp("run") / "export")


def refusal(weights, *mentions):
    with pytest.raises(SpdError) as caught:
        Extractor(str(weights), 64)
    for mention in mentions:
        assert str(mention) in str(caught.value)


def plain(export, folder):
    """The export as a bare local-dir folder, without the record that carries its digest."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(export / name, folder / name)
    return folder


def test_features_are_the_files(export):
    model = timm.create_model(ARCH, features_only=True, out_indices=(1, 2, 3), pretrained=False).eval()
    assert not model.load_state_dict(load_file(export / "model.safetensors"), strict=False).missing_keys
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.2, 0.3]))
    with torch.inference_mode():
        expected = model((IMAGES / 255 - mean) / std)
    extractor = Extractor(f"local-dir:{export}", 64)
    for found, wanted in zip(extractor(IMAGES), expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)
    assert extractor.sha256 == sha256(export / "model.safetensors")
    assert extractor.architecture == ARCH


def test_every_way_to_name_a_run(export, monkeypatch):
    monkeypatch.setenv("HOME", str(export.parent))
    monkeypatch.chdir(export.parent)
    names = [
        str(export),
        str(export.parent),
        f"local-dir:{export.parent}",
        "local-dir:~/export",
        "~/export",
        "./export",
    ]
    assert len({Extractor(name, 64).sha256 for name in names}) == 1


@pytest.mark.parametrize(
    ("architecture", "reductions"),
    [
        ("test_resnet", [4, 8, 16]),
        ("test_convnext", [4, 8, 16]),
        ("test_efficientnet", [4, 8, 16]),
        ("test_vit", [16] * 3),
    ],
)
def test_architectures(architecture, reductions):
    maps = Extractor(f"random:{architecture}", 64)(IMAGES)
    assert [64 // m.shape[-1] for m in maps] == reductions


def test_random_weights_are_always_the_same_and_leave_the_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = Extractor("random:test_resnet", 64)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first(IMAGES)[0], Extractor("random:test_resnet", 64)(IMAGES)[0])
    assert first.sha256 is None


def test_unknown_names(tmp_path):
    refusal("resnet19", "resnet19", "resnet18", "hf-hub:")
    refusal("random:resnet19", "resnet19")
    refusal("owner/name", "owner/name", "hf-hub:<owner>/<repo>")
    refusal(f"local-dir:{tmp_path}/gone", "gone", "not a folder")
    refusal(tmp_path, tmp_path / "config.json", "missing")
    for empty in ("", " ", "local-dir:"):
        refusal(empty, "no name", "hf-hub:<owner>/<repo>")


def test_unfinished_run_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"recipe": "simsiam"}')
    refusal(tmp_path, tmp_path / "model.safetensors", "finished")


def test_flipped_byte_in_an_export(export, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(export, folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    refusal(folder, folder / "model.safetensors", "sha256")


def test_truncated_file(export, tmp_path):
    folder = plain(export, tmp_path / "plain")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refusal(folder, file, "damaged")


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("change", ["prefixed", "missing"])
def test_incomplete_file_is_never_a_random_network(export, tmp_path, change, classes):
    folder = plain(export, tmp_path / "plain")
    tensors = load_file(folder / "model.safetensors")
    if change == "prefixed":
        tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    else:
        del tensors["layer2.0.conv1.weight"]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {**config.get("model_args", {}), "num_classes": classes}  # 5: timm loads non-strictly
    (folder / "config.json").write_text(json.dumps(config))
    refusal(folder, folder)


def test_nan_is_refused(export, tmp_path):
    folder = plain(export, tmp_path / "plain")
    tensors = load_file(folder / "model.safetensors")
    tensors["layer2.0.conv1.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    refusal(folder, "layer2.0.conv1.weight", "NaN")


def test_image_size_the_architecture_cannot_see():
    with pytest.raises(SpdError, match="--image-size"):
        Extractor("random:levit_128s", 10)


def test_hub_model_and_its_digest(export, hub):
    api = HfApi(endpoint=hub.endpoint)
    api.create_repo("acme/tiny", exist_ok=True)
    api.upload_folder(repo_id="acme/tiny", folder_path=export)
    extractor = Extractor("hf-hub:acme/tiny", 64)
    assert extractor.sha256 == sha256(export / "model.safetensors")
    assert torch.equal(extractor(IMAGES)[0], Extractor(str(export), 64)(IMAGES)[0])


def test_hub_repository_that_does_not_exist(hub):
    refusal("hf-hub:acme/nothing", "acme/nothing", "downloaded folder")


def test_fingerprint_changes_with_any_tensor_module_or_preprocessing(export):
    def fingerprint_of(change=lambda model: None):
        model, _ = load_backbone(str(export), 64)
        change(model)
        return fingerprint(model)

    def halve_one_number(model):
        model.layer3[0].conv2.weight.data[0, 0, 0, 0] /= 2

    def replace_activation(model):
        model.layer3[0].act1 = torch.nn.SiLU()

    def change_mean(model):
        model.pretrained_cfg["mean"] = (0.5, 0.4, 0.31)

    changes = (halve_one_number, replace_activation, change_mean)
    assert fingerprint_of() == fingerprint_of()
    assert len({fingerprint_of(), *map(fingerprint_of, changes)}) == 4


FOREIGN = [
    ({"pretrained_cfg": {"hf_hub_filename": "pytorch_model.bin"}}, "pretrained_cfg must not hold hf_hub_filename"),
    ({"pretrained_cfg": {"custom_load": "hf"}}, "pretrained_cfg must not hold custom_load"),
    ({"pretrained_cfg": {"url": "http://elsewhere", "file": "/x"}}, "pretrained_cfg must not hold file, url"),
    ({"model_args": {"pretrained_strict": False}}, "model_args must not hold pretrained_strict"),
    ({"model_args": {"cache_dir": "/x", "features_only": True}}, "model_args must not hold cache_dir, features_only"),
    ({"model_args": ["img_size"]}, "model_args must be an object"),
    ({"architecture": "hf-hub:acme/other"}, "unknown to timm"),
    ({"architecture": 7}, "unknown to timm"),
]


def edited(folder, changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("changes", "problem"), FOREIGN)
def test_foreign_configs_may_only_describe_the_network(export, tmp_path, changes, problem):
    folder = edited(plain(export, tmp_path / "plain"), changes)
    refusal(folder, folder / "config.json", problem)


@pytest.mark.parametrize("changes", [FOREIGN[0], FOREIGN[3]])
def test_configs_on_the_hub_are_checked_before_timm_follows_them(export, tmp_path, hub, changes):
    folder = edited(plain(export, tmp_path / "plain"), changes[0])
    api = HfApi(endpoint=hub.endpoint)
    api.create_repo("acme/foreign", exist_ok=True)
    api.upload_folder(repo_id="acme/foreign", folder_path=folder)
    refusal("hf-hub:acme/foreign", "hf-hub:acme/foreign", changes[1])


def test_pickled_weights_on_the_hub_are_not_read(export, tmp_path, hub):
    folder = plain(export, tmp_path / "plain")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    api = HfApi(endpoint=hub.endpoint)
    api.create_repo("acme/pickled", exist_ok=True)
    api.upload_folder(repo_id="acme/pickled", folder_path=folder)
    refusal("hf-hub:acme/pickled", "no model.safetensors", "pickled")
