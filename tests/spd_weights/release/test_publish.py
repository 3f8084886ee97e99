import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
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
from tests.hub.faults import Faults, answer, hang_up
from tests.hub.protocol import READ_TOKEN, Handler
from tests.hub.server import HubServer
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


def test_weights_of_unknown_origin_are_not_published(
    hub: HubServer, tmp_path: Path, repo: str, training: dict[str, Any]
) -> None:
    del training["spd_weight"], training["data"]
    export = export_backbone(random_backbone(), tmp_path / "export", training)
    with pytest.raises(SpdError, match=r"does not record spd_weight, data\.name"):
        publish(export, repo)
    assert hub.requests == []


def _theirs(hub: HubServer, repo: str, path: str) -> Callable[[Handler], bool]:
    def commit(_: Handler) -> bool:
        entry = hub.store.add_blob(os.urandom(4))
        hub.store.commit(repo, "main", "theirs", {path: {**entry, "lfs": False}}, [])
        return False

    return commit


def test_commit_of_somebody_else_is_built_upon_once(hub: HubServer, export: Path, repo: str) -> None:
    hub.fault = Faults("POST", "/preupload/", _theirs(hub, repo, "LICENSE"))
    done = publish(export, repo)
    assert hub.commits(repo)[:2] == ["initial commit", "theirs"]
    assert len(hub.commits(repo)) == 3
    assert {"LICENSE", *EXPORT_FILES} <= set(HfApi().list_repo_files(repo, revision=done.commit))


@pytest.mark.parametrize(("path", "times"), [("LICENSE", 9), ("README.md", 1)])
def test_somebody_elses_commit_is_not_overwritten(
    hub: HubServer, export: Path, repo: str, path: str, times: int
) -> None:
    hub.fault = Faults("POST", "/preupload/", _theirs(hub, repo, path), times)
    with pytest.raises(SpdError, match="someone else committed in the meantime"):
        publish(export, repo)
    assert set(hub.commits(repo)) == {"initial commit", "theirs"}


def _answer_lost(handler: Handler) -> bool:
    handler.reply = lambda *_, **__: None  # type: ignore[method-assign]
    handler.close_connection = True
    return False


_BUSY, _LIMITED = answer(503), answer(429, **{"Retry-After": "0"})


@pytest.mark.parametrize("fault", [_BUSY, _LIMITED, hang_up, _answer_lost], ids=["503", "429", "dropped", "lost"])
@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("GET", "/api/models/"),
        ("POST", "/api/repos/create"),
        ("POST", "/branch/"),
        ("POST", "/commit/spd-weights-upload"),
        ("POST", "/commit/main"),
        ("DELETE", "/branch/"),
        ("POST", "/tag/"),
        ("GET", "/resolve/"),
    ],
)
def test_what_passes_is_tried_again(
    hub: HubServer, export: Path, repo: str, method: str, part: str, fault: Any
) -> None:
    hub.fault = faults = Faults(method, part, fault, times=2 if fault is _BUSY and part != "/resolve/" else 1)
    done = publish(export, repo, tag="v1")
    assert faults.seen == faults.times
    assert len(hub.commits(repo)) == 2
    assert list(hub.store.repo(repo)["branches"]) == ["main"]
    assert HfApi().model_info(repo, revision="v1").sha == done.commit == HfApi().model_info(repo).sha


@pytest.mark.parametrize("fault", [_BUSY, hang_up], ids=["503", "dropped"])
def test_interrupted_upload_is_taken_up_again(hub: HubServer, export: Path, repo: str, fault: Any) -> None:
    hub.fault = faults = Faults("PUT", "/lfs/", fault)
    publish(export, repo)
    assert faults.seen == 1
    assert len(hub.commits(repo)) == 2


@pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
def test_the_wait_that_the_hub_asks_for_is_kept_or_reported(
    hub: HubServer, export: Path, repo: str, header: str
) -> None:
    def limited(seconds: int) -> Any:
        return answer(429, **{header: str(seconds) if header == "Retry-After" else f'"api";r=0;t={seconds}'})

    hub.fault = Faults("POST", "/commit/main", limited(1))
    start = time.monotonic()
    publish(export, repo)
    assert time.monotonic() - start > 1
    hub.fault = faults = Faults("GET", "/api/models/", limited(4000), times=99)
    with pytest.raises(SpdError, match="too many requests; run the command again in 4000 seconds"):
        publish(export, repo)
    assert faults.seen == 1


def test_hub_that_stays_away_leaves_nothing_half_published(hub: HubServer, export: Path, repo: str) -> None:
    hub.fault = Faults("POST", "/commit/main", answer(503), times=99)
    with pytest.raises(SpdError, match=r"the Hub answered 503 .*run the command again in some minutes"):
        publish(export, repo)
    assert hub.commits(repo) == ["initial commit"]
    hub.fault = None
    publish(export, repo)
    assert len(hub.commits(repo)) == 2


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


def test_bytes_that_do_not_come_back_leave_main_unchanged(hub: HubServer, export: Path, repo: str) -> None:
    first = publish(export, repo)
    before = hub.store.repo(repo)["branches"]["main"]

    def damage_before_the_first_read(handler: Handler) -> bool:
        if handler.command == "GET" and handler.path.endswith("/training.json"):
            hub.flip_byte(repo, "training.json", revision="spd-weights-upload")
        return False

    training = json.loads((export / "training.json").read_text())
    (export / "training.json").write_text(json.dumps({**training, "seed": 7}))
    hub.fault = damage_before_the_first_read
    with pytest.raises(
        SpdError, match=r"returns other bytes for training\.json: expected .* found .*main is unchanged"
    ):
        publish(export, repo)
    hub.fault = None
    assert hub.store.repo(repo)["branches"]["main"] == before == first.commit
    assert set(publish(export, repo).changes.values()) == {"changed", "unchanged"}
    assert list(hub.store.repo(repo)["branches"]) == ["main"]


def _is_write(handler: Handler) -> bool:
    return handler.command in ("PUT", "DELETE") or (
        handler.command == "POST" and not re.search("paths-info|validate-yaml|preupload", handler.path)
    )


@pytest.mark.parametrize("interrupted_at", range(9))
def test_interrupted_publishing_leaves_main_as_it_was(
    hub: HubServer, export: Path, repo: str, training: dict[str, Any], interrupted_at: int
) -> None:
    publish(export, repo)
    before = hub.store.repo(repo)["branches"]["main"]
    export_backbone(random_backbone(seed=1), export, {**training, "seed": 1})
    writes = 0

    def interrupt(handler: Handler) -> bool:
        nonlocal writes
        writes += _is_write(handler)
        return writes > interrupted_at and answer(400)(handler)

    hub.fault = interrupt
    finished = False
    with contextlib.suppress(SpdError):
        publish(export, repo)
        finished = True
    hub.fault = None
    moved = hub.store.repo(repo)["branches"]["main"] != before
    assert moved == finished  # neither half a commit nor a failure after the commit
    done = publish(export, repo)
    assert len(hub.commits(repo)) == 3
    assert hub.store.repo(repo)["branches"]["main"] == done.commit
    assert finished == (interrupted_at >= 8), writes


def test_what_an_earlier_version_had_is_deleted_in_the_same_commit(
    hub: HubServer, export: Path, repo: str, training: dict[str, Any]
) -> None:
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    row = {"weights": "w", "weights_sha256": digest, "dataset": "visa", "category": "pcb1", "protocol": "1cls"}
    rows = [{**row, "method": "padim", "metric": "image_auroc", "seed": 0, "value": 0.875}]
    (export / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    (export / "preview.png").write_bytes(b"views")
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


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "needs a token"), ("hf_wrong", "does not accept the token"), (READ_TOKEN, "lacks permission")],
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
    with pytest.raises(SpdError, match="already exists and is public"):
        publish(export, repo, private=True)


def test_private_repository_is_hidden(hub: HubServer, export: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(export, repo, private=True)
    assert pull(repo).is_dir()
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(SpdError, match="or private and hidden from this token"):
        pull(repo)


def test_dropped_connection_is_one_sentence(hub: HubServer, export: Path, repo: str) -> None:
    hub.fault = hang_up
    with pytest.raises(SpdError, match=f"{hub.endpoint} cannot be reached"):
        publish(export, repo)
