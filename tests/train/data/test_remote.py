"""Shards on a Hub that is slow, fails, or stays away."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem

import train.data.shards
from spd_weights.errors import SpdError
from tests.hub.protocol import Handler
from tests.hub.server import HubServer
from tests.train.data.helpers import CLASSES, COUNT, PHOTOS
from tests.train.helpers import small_config
from train.config import DataConfig
from train.data.loader import Crops, Schedule, make_loader
from train.data.sources import keep_layout, open_images


def put_on_the_hub(hub: HubServer, folder: Path) -> str:
    """As a user does, with the real client."""
    api = HfApi()
    api.create_repo("tester/pics", repo_type="dataset")
    api.upload_folder(repo_id="tester/pics", repo_type="dataset", folder_path=folder, path_in_repo="data")
    hub.requests.clear()
    return "hf:tester/pics"


@pytest.fixture
def remote(hub: HubServer, parquet: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    HfFileSystem.clear_instance_cache()  # of the repository of the test before
    monkeypatch.setattr(train.data.shards, "_WAITS", (0.01, 0.01, 0.01, 0.01))
    return put_on_the_hub(hub, parquet)


def test_a_repository_is_read_by_ranges_at_one_commit(remote: str, hub: HubServer, tmp_path: Path):
    table = open_images(remote, labelled=True)
    assert len(table) == COUNT
    assert table.features["label"].names == list(CLASSES)
    assert [item["bytes"] for item in table[[30, 31, 32]]["image"]] == PHOTOS[30:33]
    footer_and_group = len(hub.requests)
    assert [item["bytes"] for item in table[[33, 35]]["image"]] == [PHOTOS[33], PHOTOS[35]]
    assert len(hub.requests) - footer_and_group == 1  # one range holds a row group
    keep_layout(table, remote, True, "train", tmp_path / "kept.json")
    hub.requests.clear()
    again = open_images(remote, labelled=True, kept=tmp_path / "kept.json")
    assert (again.revision, hub.requests) == (table.revision, [])
    assert len(table.revision) == 40


def failing(kind: str, times: int):
    """A fault for the first `times` requests for ranges."""
    left = [times]

    def fault(request: Handler) -> bool:
        if "Range" not in request.headers or left[0] == 0:
            return False
        left[0] -= 1
        if kind == "503":
            request.send(b"busy", 503)
        elif kind == "dropped":
            request.close_connection = True
            request.connection.close()
        elif kind == "truncated":  # announces more than comes
            request.send_response(206)
            request.send_header("Content-Length", "100000")
            request.end_headers()
            request.wfile.write(b"x" * 100)
            request.close_connection = True
        else:  # shorter, and consistent in itself, as a proxy may make it
            request.send(b"x" * 100, 206)
        return True

    return fault


@pytest.mark.parametrize("kind", ["503", "dropped", "truncated", "short"])
def test_a_hub_that_fails_for_a_while_changes_nothing(kind: str, remote: str, hub: HubServer):
    table = open_images(remote)
    hub.fault = failing(kind, times=1)
    assert [item["bytes"] for item in table[[7, 8]]["image"]] == PHOTOS[7:9]


@pytest.mark.parametrize("status", [404, 400])
def test_a_hub_that_stays_away_ends_the_run_with_a_sentence(
    status: int, remote: str, hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    table = open_images(remote)
    hub.fault = lambda request: request.send(b"gone", status) or True
    config = small_config(tmp_path, tmp_path, data=DataConfig(train=remote, image_size=32))
    schedule = Schedule(table.counts, 4, 0, strands=4)
    for workers in (0, 1):
        with pytest.raises(
            SpdError, match=r"^hf://datasets/tester/pics@.*parquet could not be read: .*newest checkpoint"
        ):
            next(make_loader(Crops(table, config), schedule, 0, 2, workers))
        tries = capfd.readouterr().err.count("; retrying in 0.01 s")
        assert tries == (0 if status == 404 else 4)  # what is gone is not waited for
