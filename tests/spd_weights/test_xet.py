"""Xet, the Hub's default transport for large files, when its content server or its tokens are not to be had."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from spd_weights.checks import WEIGHTS
from spd_weights.errors import SpdError
from spd_weights.hub import pull, weights_file
from spd_weights.release.publish import publish
from tests.hub.faults import Faults, answer, hang_up
from tests.hub.server import HubServer
from tests.spd_weights.conftest import serve

pytest.importorskip("hf_xet")


@pytest.fixture
def xet_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub that offers every large file by Xet, from a content server that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.xet = "http://127.0.0.1:9"
    return hub


def test_dead_content_server_falls_back_to_plain_http(
    xet_hub: HubServer, export: Path, repo: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = serve(xet_hub, export, repo)
    path = weights_file(row, tmp_path)
    assert path.read_bytes() == (export / WEIGHTS).read_bytes()
    assert ("GET", f"/api/models/{repo}/xet-read-token/{row.revision}") in xet_hub.requests
    assert [record.message for record in caplog.records if "continuing over plain HTTP" in record.message]
    assert constants.HF_HUB_DISABLE_XET


@pytest.mark.parametrize("fault", [answer(403), answer(404), hang_up], ids=["403", "404", "dropped"])
def test_no_token_for_the_content_server_falls_back_to_plain_http(
    xet_hub: HubServer, export: Path, repo: str, fault: object
) -> None:
    serve(xet_hub, export, repo)
    xet_hub.fault = faults = Faults("GET", "/xet-read-token/", fault, times=99)  # type: ignore[arg-type]
    assert (pull(repo) / WEIGHTS).read_bytes() == (export / WEIGHTS).read_bytes()
    assert 0 < faults.seen <= 6


def test_neither_xet_nor_http_is_one_clear_error(xet_hub: HubServer, export: Path, repo: str, tmp_path: Path) -> None:
    row = serve(xet_hub, export, repo)
    xet_hub.fault = Faults("GET", f"/resolve/{row.revision}/{WEIGHTS}", answer(503), times=99)
    with pytest.raises(SpdError, match=f"{repo}@{row.revision}: the Hub answered 503"):
        weights_file(row, tmp_path)


def test_upload_falls_back_to_plain_http(xet_hub: HubServer, export: Path, repo: str) -> None:
    done = publish(export, repo)
    assert len(xet_hub.commits(repo)) == 2
    assert (pull(repo, revision=done.commit) / WEIGHTS).read_bytes() == (export / WEIGHTS).read_bytes()
