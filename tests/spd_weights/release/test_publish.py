import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

from spd_weights.catalog import load_catalog
from spd_weights.checks import EXPORT_FILES
from spd_weights.errors import SpdError
from spd_weights.hub import pull
from spd_weights.release.clone import put_row
from spd_weights.release.export import export_backbone
from spd_weights.release.publish import publish
from tests.hub.server import HubServer
from tests.spd_weights.conftest import PNG, random_backbone


def _writes(hub: HubServer) -> list[str]:
    return [path for method, path in hub.requests if method in ("POST", "PUT", "DELETE")]


def test_publish_is_one_commit_with_every_byte(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    done = publish(export, repo)
    assert hub.commits(repo) == ["initial commit", "test_resnet, SimSiam with SPD (η = 0.1), on caltech101"]
    assert set(done.changes.items()) == {(name, "new") for name in EXPORT_FILES}
    assert done.url == f"{hub.endpoint}/{repo}/commit/{done.commit}"
    for name in ("model.safetensors", "config.json", "training.json"):
        path = hf_hub_download(repo, name, revision=done.commit, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == (export / name).read_bytes()
    card = Path(hf_hub_download(repo, "README.md", cache_dir=tmp_path / "cache")).read_text()
    assert f'"hf-hub:{repo}"' in card


def test_publish_row_pins_what_was_published(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = publish(export, repo).row
    assert row is not None
    weights = (export / "model.safetensors").read_bytes()
    assert row.sha256 == hashlib.sha256(weights).hexdigest()
    assert (row.bytes, row.repo, row.status) == (len(weights), repo, "released")
    assert row.revision == HfApi().model_info(repo).sha
    (tmp_path / "catalog.json").write_text(json.dumps({"schema": 1, "rows": [asdict(row)]}))
    assert load_catalog(tmp_path / "catalog.json") == {"test_resnet_spd.simsiam_caltech101": row}


def test_publish_again_does_nothing(hub: HubServer, export: Path, repo: str) -> None:
    first = publish(export, repo)
    hub.requests.clear()
    again = publish(export, repo)
    assert set(again.changes.values()) == {"unchanged"}
    assert (again.commit, again.url, again.row) == (first.commit, first.url, first.row)
    assert _writes(hub) == []
    assert len(hub.commits(repo)) == 2


def test_publish_of_a_change_is_one_more_commit(
    hub: HubServer, export: Path, repo: str, training: dict[str, Any]
) -> None:
    publish(export, repo)
    export_backbone(random_backbone(seed=1), export, {**training, "seed": 1})
    done = publish(export, repo)
    assert set(done.changes.values()) == {"changed"}
    assert len(hub.commits(repo)) == 3


def test_dry_run_only_reads(hub: HubServer, export: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    planned = publish(export, repo, dry_run=True)
    assert set(planned.changes.values()) == {"new"}
    assert (planned.commit, planned.url, planned.row) == (None, None, None)
    assert _writes(hub) == []
    with pytest.raises(SpdError, match="not found at"):
        pull(repo)


def test_results_are_published_with_the_card_that_shows_them(hub: HubServer, export: Path, repo: str) -> None:
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    row = {
        "weights": "w",
        "weights_sha256": digest,
        "dataset": "visa",
        "category": "pcb1",
        "protocol": "1cls",
        "method": "padim",
    }
    rows = [{**row, "metric": "image_auroc", "seed": 0, "value": 0.875}]
    (export / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    with pytest.raises(SpdError, match=r"dataset acme/none \(for visa\): not found"):
        publish(export, repo, datasets={"visa": "acme/none"})
    HfApi().create_repo("acme/visa", repo_type="dataset", exist_ok=True)
    done = publish(export, repo, datasets={"visa": "acme/visa"})
    assert done.changes[".eval_results/visa.yaml"] == "new"
    assert "| image_auroc | 0.8750 | 1 | 1 |" in Path(hf_hub_download(repo, "README.md")).read_text()
    assert json.loads(Path(hf_hub_download(repo, "results.json")).read_text())["rows"] == rows


def test_damaged_export_is_not_published(hub: HubServer, export: Path, repo: str) -> None:
    (export / "config.json").unlink()
    with pytest.raises(SpdError, match=r"config\.json is missing"):
        publish(export, repo)
    assert hub.requests == []


def test_a_private_file_is_not_published_as_preview(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("private")
    (export / "preview.png").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(SpdError, match=r"preview\.png is not a PNG image"):
        publish(export, repo)
    assert hub.requests == []


def test_weights_of_unknown_origin_are_not_published(
    hub: HubServer, tmp_path: Path, repo: str, training: dict[str, Any]
) -> None:
    del training["spd_weight"], training["data"]
    export = export_backbone(random_backbone(), tmp_path / "export", training)
    with pytest.raises(SpdError, match=r"does not record spd_weight, data\.name"):
        publish(export, repo)
    assert hub.requests == []


def test_tag_marks_the_commit_and_is_never_moved(
    hub: HubServer, export: Path, repo: str, training: dict[str, Any]
) -> None:
    first = publish(export, repo, tag="v1")
    hub.requests.clear()
    assert publish(export, repo, tag="v1").commit == first.commit
    assert _writes(hub) == []
    publish(export, repo, tag="v1.1")
    assert hub.store.repo(repo)["tags"] == {"v1": first.commit, "v1.1": first.commit}
    export_backbone(random_backbone(seed=1), export, training)
    with pytest.raises(SpdError, match=f"the tag v1 of {repo} already marks {first.commit}"):
        publish(export, repo, tag="v1")
    assert len(hub.commits(repo)) == 2
    for name in ("a b", "../x", "main", "a" * 40, "", "x.lock", "v\n"):
        with pytest.raises(SpdError, match="cannot be a tag"):
            publish(export, repo, tag=name)


def test_name_that_is_taken(hub: HubServer, export: Path, repo: str, training: dict[str, Any]) -> None:
    HfApi().create_repo(repo)
    HfApi().create_commit(repo, [CommitOperationAdd("pytorch_model.bin", b"x")], commit_message="theirs")
    with pytest.raises(SpdError, match=r"the name is taken: .* holds pytorch_model\.bin, not an export"):
        publish(export, repo)
    other = f"{repo}-2"
    publish(export, other)
    export_backbone(random_backbone(), export, {**training, "method": "moco"})
    with pytest.raises(SpdError, match=r"holds test_resnet\.simsiam_caltech101, this is test_resnet\.moco_caltech101"):
        publish(export, other)
    assert len(hub.commits(other)) == 2


def test_licence_is_stated_everywhere_or_marked_missing(hub: HubServer, export: Path, repo: str) -> None:
    publish(export, repo)
    assert HfApi().model_info(repo).sha is not None
    card = Path(hf_hub_download(repo, "README.md")).read_text()
    assert "license: unknown" in card
    assert "unknown (none stated by the publisher)" in card
    done = publish(export, repo, licence="apache-2.0")
    assert done.row is not None
    assert done.row.licence == "apache-2.0"
    folder = pull(repo)
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    assert json.loads((folder / "training.json").read_text())["licence"] == "apache-2.0"
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "apache-2.0"
    assert set(publish(export, repo, licence="apache-2.0").changes.values()) == {"unchanged"}


def test_row_goes_into_the_catalog(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shipped = tmp_path / "own.json", load_catalog()
    own.write_text(json.dumps({"schema": 1, "rows": [asdict(row) for row in shipped.values()]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(own))
    for expected in ("added", "unchanged"):
        row = publish(export, repo).row
        assert row is not None
        assert put_row(row) == expected
        assert load_catalog()[row.name] == row
    assert len(load_catalog()) == len(shipped) + 1
    assert put_row(replace(row, licence="mit")) == "replaced"
    before = own.read_text()
    with pytest.raises(SpdError, match=r"is unchanged: .*revision is 'main'"):
        put_row(replace(row, revision="main"))
    assert own.read_text() == before


def test_what_an_earlier_version_had_is_deleted_in_the_same_commit(
    hub: HubServer, export: Path, repo: str, training: dict[str, Any]
) -> None:
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    row = {"weights": "w", "weights_sha256": digest, "dataset": "visa", "category": "pcb1", "protocol": "1cls"}
    rows = [{**row, "method": "padim", "metric": "image_auroc", "seed": 0, "value": 0.875}]
    (export / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    (export / "preview.png").write_bytes(PNG)
    HfApi().create_repo("acme/visa", repo_type="dataset", exist_ok=True)
    first = publish(export, repo, datasets={"visa": "acme/visa"})
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="LICENSE", repo_id=repo)
    old = set(HfApi().list_repo_files(repo, revision=first.commit)) - {*EXPORT_FILES, ".gitattributes"}
    assert old == {"results.json", "preview.png", ".eval_results/visa.yaml"}
    export_backbone(random_backbone(seed=1), export, {**training, "seed": 1})
    planned = publish(export, repo, dry_run=True)
    done = publish(export, repo)
    assert {name for name, change in done.changes.items() if change == "deleted"} == old
    assert done.changes == planned.changes
    assert set(HfApi().list_repo_files(repo)) == {*EXPORT_FILES, ".gitattributes", "LICENSE"}
    assert len(hub.commits(repo)) == 4
    assert set(publish(export, repo).changes.values()) == {"unchanged"}
