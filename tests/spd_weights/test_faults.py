"""Loading through the real Hub client while something goes wrong: success after another attempt, or one clear error.

`python -m tests.spd_weights.test_faults` prints the cases and their outcomes as a table.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from spd_weights.catalog import Row
from spd_weights.checks import WEIGHTS
from spd_weights.errors import SpdError
from spd_weights.hub import pull, weights_file
from tests.hub.faults import Act, Faults, answer, drip, hang_up, shorten, truncate
from tests.hub.protocol import WRITE_TOKEN, Handler
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

_ALWAYS = 999


@dataclass(frozen=True)
class Case:
    """A fault, and what must come of it: None for the weights, else the error's words."""

    what: str
    method: str
    part: str
    act: Act
    times: int = 1
    error: str | None = None


def _window(remaining: int, seconds: int) -> dict[str, str]:
    return {"RateLimit": f'"api";r={remaining};t={seconds}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


_BUSY = "the Hub answered 503 .*; run the command again in some minutes"
_AGAIN = {"Retry-After": "0"}
CASES = [
    Case("connection dropped before the answer to HEAD", "HEAD", WEIGHTS, hang_up),
    Case("connection dropped before the answer to GET", "GET", WEIGHTS, hang_up),
    Case("connection dropped at every request", "HEAD", "", hang_up, _ALWAYS, "cannot be reached"),
    Case("connection dropped at every download", "GET", WEIGHTS, hang_up, _ALWAYS, "cannot be reached"),
    Case("file cut off half-way, once", "GET", WEIGHTS, truncate(100_000)),
    Case("file cut off half-way, always", "GET", WEIGHTS, truncate(100_000), _ALWAYS, "cannot be reached"),
    Case("file cut off before its first byte, always", "GET", WEIGHTS, truncate(0), _ALWAYS, "cannot be reached"),
    Case("file shorter than announced", "GET", WEIGHTS, shorten(1000), _ALWAYS, "but has size 1000"),
    Case("503 to HEAD, twice", "HEAD", WEIGHTS, answer(503), 2),
    Case("503 to GET, twice", "GET", WEIGHTS, answer(503), 2),
    Case("503 always", "GET", WEIGHTS, answer(503), _ALWAYS, _BUSY),
    Case("503 to HEAD always", "HEAD", "", answer(503), _ALWAYS, _BUSY),
    Case("429 to HEAD, Retry-After", "HEAD", WEIGHTS, answer(429, **_AGAIN), 2),
    Case("429 to GET, Retry-After", "GET", WEIGHTS, answer(429, **_AGAIN), 2),
    Case("429 always", "HEAD", WEIGHTS, answer(429, **_AGAIN), _ALWAYS, "too many requests; run the"),
    Case(
        "429 for longer than five minutes", "HEAD", WEIGHTS, answer(429, **{"Retry-After": "4000"}), _ALWAYS,
        "too many requests; run the command again in 4000 seconds",
    ),
    Case("RateLimit to HEAD: window over in a second", "HEAD", WEIGHTS, answer(429, **_window(0, 1)), 2),
    Case("RateLimit to GET: window over in a second", "GET", WEIGHTS, answer(429, **_window(0, 1)), 2),
    Case(
        "RateLimit for longer than five minutes", "HEAD", WEIGHTS, answer(429, **_window(0, 4000)), _ALWAYS,
        "too many requests; run the command again in 4000 seconds",
    ),
    Case("revision gone", "HEAD", "", answer(404, **{"X-Error-Code": "RevisionNotFound"}), _ALWAYS, "has no revision"),
    Case("file gone", "HEAD", WEIGHTS, answer(404, **{"X-Error-Code": "EntryNotFound"}), _ALWAYS, "lacks a file"),
    Case("repository gone", "HEAD", "", answer(404, **{"X-Error-Code": "RepoNotFound"}), _ALWAYS, "or private"),
    Case("token refused", "HEAD", "", answer(401), _ALWAYS, "or private|does not accept the token"),
    Case("forbidden", "HEAD", "", answer(403), _ALWAYS, "the token lacks permission"),
    Case("slow drip", "GET", WEIGHTS, drip(20_000, 0.01)),
    Case("stalls for longer than the client waits, once", "GET", WEIGHTS, drip(200_000, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_fault(
    case: Case, hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    row = serve(hub, export, repo)
    hub.fault = faults = Faults(case.method, case.part, case.act, case.times)
    if case.error is None:
        path = weights_file(row, tmp_path)
        assert path.read_bytes() == (export / WEIGHTS).read_bytes()
    else:
        with pytest.raises(SpdError) as error:
            weights_file(row, tmp_path)
        assert re.search(case.error, str(error.value)), error.value
        assert repo in str(error.value)
        assert "\n" not in str(error.value)
    assert 0 < faults.seen <= 14  # two files and the client's own attempts; ours do not multiply them
    hub.fault = None
    path = weights_file(row, tmp_path)
    assert path.read_bytes() == (export / WEIGHTS).read_bytes()


def test_redirect_to_another_origin_carries_no_token(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)
    tokens: dict[bool, set[str | None]] = {True: set(), False: set()}

    def note(handler: Handler) -> bool:
        tokens[handler.is_content_origin].add(handler.headers.get("Authorization"))
        return False

    hub.fault = note
    assert weights_file(row, tmp_path).read_bytes() == (export / WEIGHTS).read_bytes()
    assert tokens == {True: {None}, False: {f"Bearer {WRITE_TOKEN}"}}


def test_other_bytes_from_another_origin_are_refused(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)
    hub.fault = Faults("GET", WEIGHTS, _zeros)
    with pytest.raises(SpdError, match=f"damaged: expected sha256 {row.sha256}"):
        weights_file(row, tmp_path)
    assert weights_file(row, tmp_path).is_file()


def test_mirror_that_is_none_is_named(hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(hub, export, repo)

    def no_etag(handler: Handler) -> bool:
        handler.reply({"welcome": "to this web site"})
        return True

    hub.fault = no_etag
    with pytest.raises(SpdError, match=f"{hub.endpoint} does not answer like the Hub .*; check HF_ENDPOINT"):
        weights_file(row, tmp_path)


def _zeros(handler: Handler) -> bool:
    send = handler.send
    handler.send = lambda content, *args, **headers: send(bytes(len(content)), *args, **headers)  # type: ignore[method-assign]
    handler.close_connection = True
    return False


@pytest.fixture
def released(hub: HubServer, export: Path, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    """A released weight, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return serve(hub, export, repo)


def test_configuration_that_is_cut_off_once_is_fetched_again(hub: HubServer, released: Row) -> None:
    hub.fault = faults = Faults("GET", "config.json", truncate(100))
    assert pull(released).is_dir()
    assert faults.seen == 1


def test_changed_configuration_is_refused(hub: HubServer, export: Path, repo: str, released: Row) -> None:
    mean = (export / "config.json").read_bytes().index(b"0.4,")
    hub.flip_byte(repo, "config.json", offset=mean + 2)  # another mean, and JSON still
    with pytest.raises(SpdError, match=rf"config\.json of .* damaged: expected sha256 {released.config_sha256}"):
        pull(released)
    hub.flip_byte(repo, "config.json", offset=mean + 2)
    assert pull(released).is_dir()


def test_branch_that_moves_meanwhile_gives_one_commit_whole(hub: HubServer, export: Path, repo: str) -> None:
    serve(hub, export, repo)

    def move(_: Handler) -> bool:
        changed = {name: {**hub.store.add_blob(b"other"), "lfs": False} for name in ("config.json", WEIGHTS)}
        hub.store.commit(repo, "main", "meanwhile", changed, [])
        return False

    hub.fault = faults = Faults("HEAD", "/resolve/", move)
    folder = pull(repo)
    assert faults.seen == 1
    assert hub.commits(repo)[-1] == "meanwhile"
    assert (folder / WEIGHTS).read_bytes() == (export / WEIGHTS).read_bytes()


if __name__ == "__main__":
    print("| fault | outcome |\n| --- | --- |")
    for case in CASES:
        print(f"| {case.what} | {'loads' if case.error is None else f'one error: “{case.error}”'} |")
