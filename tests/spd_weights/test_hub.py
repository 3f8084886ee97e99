import errno
import hashlib
import json
import os
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from safetensors.torch import load_file

from spd_weights.checks import EXPORT_FILES
from spd_weights.errors import SpdError
from spd_weights.hub import pull, verify, weights_file
from spd_weights.release.publish import publish
from tests.hub.server import HubServer


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


def test_a_pulled_commit_needs_no_hub(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = publish(export, repo).commit
    folder = pull(repo, revision=commit)
    pull(repo)
    hub.requests.clear()
    assert pull(repo, revision=commit) == folder
    assert hub.requests == []
    snapshot_download(repo)  # what the message offline asks for: it also records where main is
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for revision in (commit, None, "main"):
        assert pull(repo, revision=revision) == folder
    weights = (folder / "model.safetensors").resolve()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SpdError, match=r"model\.safetensors of .* is damaged: expected [0-9a-f]{64}, found"):
        pull(repo, revision=commit)
    with pytest.raises(SpdError, match="on a machine with a connection run hf download"):
        pull(repo, revision=commit)


def test_a_cache_that_shares_files_between_repositories(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps what came by Xet in one store under its Xet hash, and links there from the sha256."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "c"))
    commit = publish(export, repo).commit
    weights = (pull(repo, revision=commit) / "model.safetensors").resolve()
    shared = tmp_path / "c" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    weights.rename(shared)
    weights.symlink_to(os.path.relpath(shared, weights.parent))
    assert pull(repo, revision=commit).is_dir()
    shared.write_bytes(shared.read_bytes()[:-1] + b"!")
    with pytest.raises(SpdError, match=r"model\.safetensors of .* is damaged"):
        pull(repo, revision=commit)
    assert pull(repo, revision=commit).is_dir()


def test_damage_in_a_read_only_cache_is_reported_as_damage(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = publish(export, repo).row
    assert row is not None
    weights = weights_file(row, tmp_path / "c").resolve()
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)  # as root, which tests may run as, a read-only folder can be written
    with pytest.raises(SpdError, match=r"is damaged: .* cannot be removed from the cache \(Read-only file system\)"):
        weights_file(row, tmp_path / "c")


@pytest.mark.parametrize("name", ["runs/mine/export", "/nowhere", "./mine", "../mine/export", "~/mine", "here/missing"])
def test_a_mistyped_folder_never_asks_the_hub(
    name: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(SpdError, match=f"{name} is not a folder; give the export/ folder of a run, or owner/name"):
        verify(name)
    assert hub.requests == []


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


def test_a_renamed_repository_is_followed(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = publish(export, repo).row
    assert row is not None
    hub.store.rename(repo, f"{repo}-new")
    assert weights_file(row, tmp_path).read_bytes() == (export / "model.safetensors").read_bytes()
    assert (pull(repo) / "model.safetensors").read_bytes() == (export / "model.safetensors").read_bytes()


def test_repository_that_keeps_weights_as_ordinary_files(hub: HubServer, export: Path, repo: str) -> None:
    HfApi().create_repo(repo)
    HfApi().create_commit(repo, [CommitOperationAdd(".gitattributes", b"*.bin filter=lfs\n")], commit_message="mine")
    done = publish(export, repo)
    assert set(publish(export, repo).changes.values()) == {"unchanged"}
    assert (pull(repo, revision=done.commit) / "model.safetensors").is_file()
    entry = hub.store.entry(hub.store.repo(repo), str(done.commit), "model.safetensors")
    assert not entry["lfs"]


def test_lists_come_in_pages(hub: HubServer, export: Path, repo: str) -> None:
    publish(export, repo)
    assert len(EXPORT_FILES) > hub.page_size
    hub.requests.clear()
    assert {*EXPORT_FILES, ".gitattributes"} == set(HfApi().list_repo_files(repo))
    trees = [path for method, path in hub.requests if "/tree/" in path]
    assert len(trees) == 2
