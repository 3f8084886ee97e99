"""Publishing while something goes wrong: the Hub, the network, the token, somebody else's commit."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from spd_weights.checks import EXPORT_FILES
from spd_weights.errors import SpdError
from spd_weights.hub import pull
from spd_weights.release.export import export_backbone
from spd_weights.release.publish import publish
from tests.hub.faults import Faults, answer, hang_up
from tests.hub.protocol import READ_TOKEN, Handler
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone


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


@pytest.mark.parametrize("name", ["acme/a b", "nope", "a/b/c", ""])
def test_name_that_is_none(hub: HubServer, export: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "")  # which is complained of only when the name is right
    with pytest.raises(SpdError, match=f"{name}: not a repository name; write owner/name"):
        publish(export, name)
    assert hub.requests == []


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
