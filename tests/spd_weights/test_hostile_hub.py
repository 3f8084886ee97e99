"""A Hub that answers anything: each answer ends in one clear error, and no file appears outside the cache."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spd_weights.checks import SMALL_FILE, WEIGHTS
from spd_weights.errors import SpdError
from spd_weights.hub import pull, weights_file
from spd_weights.release.publish import publish
from tests.hub.faults import Act, Faults
from tests.hub.protocol import Handler
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

_ALWAYS = 999
_NO_HUB = "does not answer like the Hub .*; check HF_ENDPOINT"


def _refused(call: Callable[[], object], words: str = _NO_HUB) -> None:
    with pytest.raises(SpdError, match=words) as error:
        call()
    assert str(error.value).isprintable(), error.value
    assert len(str(error.value)) < 1200


def _say(content: bytes | str, status: int = 200, **headers: str) -> Act:
    def act(handler: Handler) -> bool:
        handler.send(content.encode() if isinstance(content, str) else content, status, **headers)
        return True

    return act


_ANSWERS = {
    "a web page": "<html>Please log in</html>",
    "no text": b"\xff\xfe\x00",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "an empty object": "{}",
    "nested lists": "[" * 100_000,
    "a number of 10,000 digits": '{"id": "a/b", "sha": %s}' % ("9" * 10_000),
    "another kind of id": '{"id": 5, "sha": "x", "siblings": 5}',
}


@pytest.mark.parametrize("part", ["/revision/", "/tree/"])
def test_answers_that_are_none(hub: HubServer, export: Path, repo: str, part: str) -> None:
    serve(hub, export, repo)
    for answer in _ANSWERS.values():
        hub.fault = faults = Faults("GET", part, _say(answer), _ALWAYS)
        _refused(lambda: pull(repo, revision="main"), f"{_NO_HUB}|lacks a file of an export")
        assert faults.seen


@pytest.mark.parametrize("part", ["/commit/spd-weights-upload", "/preupload/", "/info/lfs/"])
def test_answers_to_a_commit_that_are_none(hub: HubServer, export: Path, repo: str, part: str) -> None:
    for answer in _ANSWERS.values():
        hub.fault = faults = Faults("POST", part, _say(answer), _ALWAYS)
        _refused(lambda: publish(export, repo))
        assert faults.seen
    assert hub.commits(repo) == ["initial commit"]


def test_commits_that_are_none(hub: HubServer, export: Path, repo: str) -> None:
    serve(hub, export, repo)
    for sha in ("../../../../evil", "/evil", "main", "", None, "a" * 41, "A" * 40, 5, ["a" * 40]):
        hub.fault = Faults("GET", "/revision/", _say(json.dumps({"id": repo, "sha": sha})), _ALWAYS)
        _refused(lambda: pull(repo, revision="main"))
        hub.fault = Faults("POST", "/commit/", _say(json.dumps({"commitOid": sha, "commitUrl": "x"})), _ALWAYS)
        _refused(lambda: publish(export, f"{repo}-2"))


def _with(**headers: str) -> Act:
    """The answer that the Hub would give, with other headers."""

    def act(handler: Handler) -> bool:
        send, handler.close_connection = handler.send, True
        handler.send = lambda content, status=200, **sound: send(content, status, **{**sound, **headers})  # type: ignore[method-assign]
        return False

    return act


_FORMS = ("{}/evil", '"{}/evil"', 'W/"{}/evil"', "../../../../evil", "..", ".", "a/b", "a\\b")


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Xet-Hash"])
def test_the_hub_names_no_file_on_this_machine(
    hub: HubServer, export: Path, repo: str, tmp_path: Path, header: str
) -> None:
    """The client joins these headers to a path in its cache, and would write the weights to any place."""
    row, cache = serve(hub, export, repo), tmp_path / "deep" / "deep" / "cache"
    before = _files_outside(cache, tmp_path)
    for form in _FORMS:
        evil = _with(**{header: form.format(tmp_path / "outside")})
        for act in (evil, _missing(evil)):
            for faults in (Faults("HEAD", "", act, _ALWAYS), Faults("HEAD", "", _after_the_first(act), _ALWAYS)):
                hub.fault = faults
                _refused(lambda: weights_file(row, cache))
                assert _files_outside(cache, tmp_path) == before
                assert not list(cache.rglob("*evil*"))


def _files_outside(cache: Path, folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(cache))


def _missing(then: Act) -> Act:
    """Say that there is no such file, in an answer that `then` changes."""

    def act(handler: Handler) -> bool:
        then(handler)
        handler.send(b"", 404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "a" * 40})
        return True

    return act


def _after_the_first(act: Act) -> Act:
    """Show the true answer once: whoever checks it and asks again gets another."""
    seen = 0

    def later(handler: Handler) -> bool:
        nonlocal seen
        seen += 1
        return seen > 1 and act(handler)

    return later


def _tree(change: Callable[[list[dict[str, Any]]], list[Any]]) -> Act:
    """The list of files, changed."""

    def act(handler: Handler) -> bool:
        reply_page, handler.close_connection = handler.reply_page, True
        handler.reply_page = lambda items: reply_page(change(items))  # type: ignore[method-assign]
        return False

    return act


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda items: [i for i in items if i["path"] != "config.json"], r"lacks a file of an export \(config\.json\)"),
        (lambda items: [{**i, "size": SMALL_FILE + 1} for i in items], "has 1048577 bytes, an export's at most"),
        (lambda items: [{**i, "type": "directory"} for i in items], "lacks a file of an export"),
        (lambda items: [{**i, "oid": "../x", "lfs": None} for i in items], "is damaged: expected git blob ../x, found"),
        (lambda items: [{**i, "lfs": 5} for i in items], _NO_HUB),
        (lambda items: [{**i, "lfs": {}} for i in items], _NO_HUB),
        (lambda items: [{**i, "path": f"../{i['path']}"} for i in items], "lacks a file of an export"),
        (lambda items: [5, *items], _NO_HUB),
    ],
)
def test_lists_of_files_that_lie(
    hub: HubServer, export: Path, repo: str, change: Callable[[list[Any]], list[Any]], words: str
) -> None:
    serve(hub, export, repo)
    hub.fault = Faults("GET", "/tree/", _tree(change), _ALWAYS)
    _refused(lambda: pull(repo), words)


_PLACES = ("/{path}", "file:///etc/hostname", "ftp://127.0.0.1/x", "http://[::1", "http://127.0.0.1:9/x", "//", "\\\\x")


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_redirects_to_nowhere(hub: HubServer, export: Path, repo: str, tmp_path: Path, method: str, place: str) -> None:
    row = serve(hub, export, repo)

    def act(handler: Handler) -> bool:
        handler.send(b"", 302, **{"Location": place.format(path=handler.path.lstrip("/")), "X-Repo-Commit": "a" * 40})
        return True

    hub.fault = Faults(method, "/resolve/", act, _ALWAYS)
    _refused(lambda: weights_file(row, tmp_path / "cache"), "Hub|cannot be reached")


def test_messages_of_the_hub_are_printed_as_text(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)
    for value in ("\x1b[31mred", "x" * 5000, "\u00ff\u00fe"):
        hub.fault = Faults("HEAD", "/resolve/", _say(b"", 418, **{"X-Error-Message": value}), _ALWAYS)
        _refused(lambda: weights_file(row, tmp_path / "cache"), "the Hub answered 418")


def test_names_of_the_hub_are_printed_as_text(hub: HubServer, export: Path, repo: str) -> None:
    entry = {**hub.store.add_blob(b"x"), "lfs": False}
    hub.store.create(repo, private=False)
    hub.store.commit(repo, "main", "theirs", {"\x1b[31m.bin": entry}, [])
    _refused(lambda: publish(export, repo), r"the name is taken: .* holds '\\x1b\[31m\.bin'")


@pytest.mark.parametrize("cfg", [5, [], "x", {"tag": "\x1b[31m"}, {"tag": [1]}])
def test_config_of_somebody_else_is_any_json(hub: HubServer, export: Path, repo: str, cfg: object) -> None:
    serve(hub, export, repo)
    config = json.dumps({"architecture": "\x1b[31m", "pretrained_cfg": cfg}).encode()
    entry = {**hub.store.add_blob(config), "lfs": False}
    hub.store.commit(repo, "main", "theirs", {"config.json": entry}, [])
    _refused(lambda: publish(export, repo), "the name is taken: .* this is test_resnet")


def test_a_card_does_not_keep_the_reader_busy(export: Path, hub: HubServer, repo: str) -> None:
    (export / "README.md").write_text("---\n" + "\n" * 200_000 + "x")
    hub.store.create(repo, private=False)
    files = {path.name: {**hub.store.add_blob(path.read_bytes()), "lfs": False} for path in export.iterdir()}
    hub.store.commit(repo, "main", "theirs", files, [])
    start = time.process_time()
    folder = pull(repo)
    assert time.process_time() - start < 10
    assert (folder / WEIGHTS).is_file()
