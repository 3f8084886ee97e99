import hashlib
import json
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from safetensors.torch import load_file

from spd_weights.catalog import load_catalog
from spd_weights.errors import SpdError
from spd_weights.export import EXPORT_FILES, export_backbone
from spd_weights.hub import publish, pull, verify, weights_file
from tests.hub_protocol import READ_TOKEN, Handler
from tests.hub_server import HubServer
from tests.spd_weights.conftest import random_backbone


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
    with pytest.raises(SpdError, match="not at"):
        pull(repo)


def test_results_are_published_with_the_card_that_shows_them(hub: HubServer, export: Path, repo: str) -> None:
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    row = {"weights_sha256": digest, "dataset": "visa", "category": "pcb1", "protocol": "1cls", "method": "padim"}
    rows = [{**row, "metric": "image_auroc", "seed": 0, "value": 0.875}]
    (export / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    publish(export, repo)
    assert "| image_auroc | 0.8750 | 1 | 1 |" in Path(hf_hub_download(repo, "README.md")).read_text()
    assert json.loads(Path(hf_hub_download(repo, "results.json")).read_text())["rows"] == rows


def test_damaged_export_is_not_published(hub: HubServer, export: Path, repo: str) -> None:
    (export / "config.json").unlink()
    with pytest.raises(SpdError, match=r"config\.json is missing"):
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


def test_somebody_elses_commit_is_not_overwritten(hub: HubServer, export: Path, repo: str) -> None:
    def commit_meanwhile(handler: Handler) -> bool:
        if "/preupload/" in handler.path:
            entry = hub.store.add_blob(b"theirs")
            hub.store.commit(repo, "main", "theirs", {"x": {**entry, "lfs": False}}, [])
        return False

    hub.fault = commit_meanwhile
    with pytest.raises(SpdError, match="somebody else committed meanwhile"):
        publish(export, repo)
    assert hub.commits(repo) == ["initial commit", "theirs"]


def test_bytes_that_do_not_come_back_are_reported(hub: HubServer, export: Path, repo: str) -> None:
    def damage_before_the_first_read(handler: Handler) -> bool:
        if handler.command == "GET" and handler.path.endswith("/model.safetensors"):
            hub.flip_byte(repo, "model.safetensors")
        return False

    hub.fault = damage_before_the_first_read
    with pytest.raises(SpdError, match=r"gives back other bytes for model\.safetensors: expected .* found"):
        publish(export, repo)


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "needs a token"), ("hf_wrong", "does not accept the token"), (READ_TOKEN, "may not do this")],
)
def test_refused_token(
    hub: HubServer, export: Path, repo: str, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SpdError, match=message):
        publish(export, repo)
    assert repo not in hub.store.repos


def test_name_that_is_none(hub: HubServer, export: Path) -> None:
    with pytest.raises(SpdError, match="acme/a b: not a repository name"):
        publish(export, "acme/a b")


def test_public_repository_is_not_silently_kept_public(hub: HubServer, export: Path, repo: str) -> None:
    publish(export, repo)
    with pytest.raises(SpdError, match="there already and public"):
        publish(export, repo, private=True)


def test_private_repository_is_hidden(hub: HubServer, export: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(export, repo, private=True)
    assert pull(repo).is_dir()
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(SpdError, match="or private and not for this token"):
        pull(repo)


def test_dropped_connection_is_one_sentence(hub: HubServer, export: Path, repo: str) -> None:
    def hang_up(handler: Handler) -> bool:
        handler.close_connection = True
        return True

    hub.fault = hang_up
    with pytest.raises(SpdError, match=f"{hub.endpoint} cannot be reached"):
        publish(export, repo)


def test_pull_to_a_folder_and_verify(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    commit = publish(export, repo).commit
    folder = pull(repo, revision=commit, to=tmp_path / "deep" / "here")
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXPORT_FILES)
    assert (folder / "model.safetensors").read_bytes() == (export / "model.safetensors").read_bytes()
    assert "not in the catalog" in verify(str(folder))
    with pytest.raises(SpdError, match="has no revision v9"):
        pull(repo, revision="v9")
    with pytest.raises(SpdError, match="pins the revision"):
        pull("resnet50_spd", revision="main")


def test_repository_that_is_no_export(hub: HubServer, repo: str) -> None:
    HfApi().create_repo(repo)
    with pytest.raises(SpdError, match="lacks a file of an export"):
        pull(repo)


def test_flipped_byte_is_refused_and_forgotten(
    hub: HubServer, export: Path, repo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = publish(export, repo).row
    assert row is not None
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": [asdict(row)]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "own.json"))
    hub.flip_byte(repo, "model.safetensors")
    for refused in (lambda: weights_file(row, tmp_path / "c"), lambda: pull(row), lambda: pull(repo)):
        with pytest.raises(SpdError) as error:
            refused()
        found = hashlib.sha256(hub.store.blob(str(row.sha256)).read_bytes()).hexdigest()
        for part in ("model.safetensors", f"expected sha256 {row.sha256}, found {found}"):
            assert part in str(error.value)
    hub.flip_byte(repo, "model.safetensors")
    path = weights_file(row, tmp_path / "c")
    assert load_file(path).keys() == load_file(export / "model.safetensors").keys()
    assert f"the catalog’s {row.name}" in verify(row.name)
    hub.requests.clear()
    assert weights_file(row, tmp_path / "c") == path
    assert hub.requests == []  # a pinned commit in the cache needs no Hub


def test_bundled_weights_lie_beside_the_catalog(
    export: Path, hub: HubServer, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = publish(export, repo).row
    assert released is not None
    nulls = {"repo": None, "revision": None}
    row = {**asdict(released), **nulls, "status": "bundled", "file": "run/export/model.safetensors"}
    (tmp_path / "own.json").write_text(json.dumps({"schema": 1, "rows": [row]}))
    monkeypatch.setenv("SPD_WEIGHTS_CATALOG", str(tmp_path / "own.json"))
    hub.requests.clear()
    assert pull(released.name) == export
    assert hub.requests == []
    content = bytearray((export / "model.safetensors").read_bytes())
    (export / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SpdError, match=r"model\.safetensors of .* is damaged: expected"):
        pull(released.name)
    assert (export / "model.safetensors").exists()


def test_server_speaks_the_rest_of_the_protocol(hub: HubServer, repo: str) -> None:
    api = HfApi()
    api.create_repo(repo)
    first = api.create_commit(repo, [CommitOperationAdd("a.txt", b"0123456789")], commit_message="a").oid
    api.create_tag(repo, tag="v1", revision=first)
    api.create_commit(repo, [CommitOperationAdd("a.txt", b"other")], commit_message="b")
    assert [commit.title for commit in api.list_repo_commits(repo)] == ["b", "a", "initial commit"]
    assert [tag.name for tag in api.list_repo_refs(repo).tags] == ["v1"]
    assert api.model_info(repo, revision="v1").sha == first
    assert "a.txt" in api.list_repo_files(repo, revision="v1")
    assert api.whoami()["name"] == "tester"
    url = f"{hub.endpoint}/{repo}/resolve/v1/a.txt"
    request = urllib.request.Request(url, headers={"Range": "bytes=3-5"})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, b"345")
        assert answer.headers["Content-Range"] == "bytes 3-5/10"
