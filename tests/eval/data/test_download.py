"""Downloads from a real server that drops, lies, forgets ranges and falters; archives that must not be unpacked."""

import hashlib
import io
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import eval.data.download
from eval.__main__ import main
from eval.data.download import ARCHIVES, URL_VARIABLE, Archive, download, unpack, unpacked
from spd_weights.errors import SpdError

FILES = {
    "candle/Data/Images/Normal/0000.JPG": np.random.default_rng(0).bytes(3_000_000),
    "split_csv/1cls.csv": b"object,split,label,image,mask\n",
}


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


CONTENT = tar_of(FILES)


class Server(ThreadingHTTPServer):
    """Serves CONTENT. `faults` are taken one a request: a status, a number of bytes to drop after, or "no ranges"."""

    daemon_threads = True

    def __init__(self):
        self.faults, self.ranges, self.content = [], [], CONTENT
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/visa.tar"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, str) and fault.isdigit():
            self.send_error(int(fault))
            return
        content = self.server.content
        start = 0
        if self.headers.get("Range") and fault != "no ranges":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: fault if isinstance(fault, int) else None])


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(server):
    return Archive(server.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def get(archive, folder):
    waits = []
    download(archive, folder, waits.append)
    return waits


def is_whole(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop(".complete", None)
    return found == FILES


def test_fetched_unpacked_and_the_second_call_does_nothing(server, archive, tmp_path):
    assert get(archive, tmp_path / "VisA") == []
    assert is_whole(tmp_path / "VisA")
    assert get(archive, tmp_path / "VisA") == []
    assert server.ranges == [None]


def test_goes_on_where_the_connection_dropped(server, archive, tmp_path):
    server.faults = [1_000_000, 500_000]
    get(archive, tmp_path)
    assert is_whole(tmp_path)
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_later_call_goes_on(server, archive, tmp_path):
    server.faults = [700_000, *["503"] * 20]
    with pytest.raises(SpdError, match=r"503.*700000 of \d+ bytes are kept"):
        get(archive, tmp_path)
    server.faults, server.ranges = [], []
    get(archive, tmp_path)
    assert server.ranges == ["bytes=700000-"]
    assert is_whole(tmp_path)


def test_server_without_ranges_starts_again(server, archive, tmp_path):
    server.faults = [1_000_000, "no ranges"]
    get(archive, tmp_path)
    assert is_whole(tmp_path)


def test_busy_server_is_asked_again_with_growing_pauses(server, archive, tmp_path):
    server.faults = ["503", "503", "429"]
    waits = get(archive, tmp_path)
    assert waits == sorted(waits)
    assert len(waits) == 3
    assert is_whole(tmp_path)


def test_missing_file_is_said_at_once(server, archive, tmp_path):
    server.faults = ["404"]
    with pytest.raises(SpdError, match=r"404.*--url"):
        get(archive, tmp_path)
    assert len(server.ranges) == 1


def test_unreachable_server(archive, server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(SpdError, match=r"refused.*0 of"):
        get(archive, tmp_path)


def test_wrong_bytes_are_removed_and_nothing_is_unpacked(server, archive, tmp_path):
    server.content = CONTENT[:1000] + bytes([CONTENT[1000] ^ 1]) + CONTENT[1001:]
    with pytest.raises(SpdError, match="sha256"):
        get(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    get(archive, tmp_path)
    assert is_whole(tmp_path)


def test_another_size_is_refused_before_the_bytes(server, archive, tmp_path):
    server.content = CONTENT + b"more"
    with pytest.raises(SpdError, match=f"has {len(CONTENT) + 4} bytes, the published one {len(CONTENT)}"):
        get(archive, tmp_path)


def test_unpacking_that_was_cut_off_is_finished(server, archive, tmp_path):
    get(archive, tmp_path)
    (tmp_path / ".complete").unlink()
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    get(archive, tmp_path)
    assert is_whole(tmp_path)


def test_no_room(archive, tmp_path):
    huge = Archive(archive.url, 10**18, archive.sha256)
    with pytest.raises(SpdError, match="needed for the archive"):
        get(huge, tmp_path)


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/outside"),
        member("inside", type=tarfile.SYMTYPE, linkname="/etc"),
        member("inside", type=tarfile.LNKTYPE, linkname="good"),
        member("inside", type=tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type.decode()}",
)
def test_archives_that_reach_outside_write_nothing(tmp_path, info):
    path, folder = tmp_path / "a.tar", tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("good"))
        tar.addfile(info)
    with pytest.raises(SpdError, match="do not trust"):
        unpack(path, folder)
    assert list(folder.iterdir()) == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "folder", "in"]


def test_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({"candle/x": b"1"}))
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "candle")
    with pytest.raises(SpdError, match="is reached through a link"):
        unpack(tmp_path / "a.tar", tmp_path / "in")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_damaged_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(SpdError, match="not a readable tar"):
        unpack(tmp_path / "a.tar", tmp_path)


def test_command_refuses_what_is_not_visa(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(URL_VARIABLE, server.url)
    assert main(["download", "visa", "--to", str(tmp_path)]) == 2
    assert "the published one 1929840640" in capsys.readouterr().err
    known = Archive(server.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(eval.data.download.ARCHIVES, "visa", known)
    assert main(["download", "visa", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"ready: {tmp_path}\n"
    assert ARCHIVES["visa"] is known


def test_tar_as_data_is_unpacked_once(tmp_path):
    path = tmp_path / "VisA.tar"
    path.write_bytes(CONTENT)
    folder = unpacked(path)
    image = folder / "candle/Data/Images/Normal/0000.JPG"
    assert image.stat().st_size == 3_000_000
    written = image.stat().st_mtime_ns
    assert unpacked(path) == folder
    assert image.stat().st_mtime_ns == written
    assert unpacked(folder) == folder
    path.write_bytes(b"no archive")
    with pytest.raises(SpdError, match=r"VisA\.tar: not a readable tar file"):
        unpacked(path)
