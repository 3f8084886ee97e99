"""The cache as users meet it: shared by processes, offline, read-only, full. Each in processes of its own."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from spd_weights.checks import WEIGHTS
from spd_weights.release.export import export_backbone
from tests.conftest import RunPython
from tests.hub.faults import Faults, drip
from tests.hub.server import HubServer
from tests.spd_weights.conftest import random_backbone, serve

_NAME = "mobilenetv2_100_spd.simsiam_caltech101"


@pytest.fixture
def catalog(hub: HubServer, training: dict[str, Any], tmp_path: Path) -> Path:
    """A catalog of a released weight, and of another that nobody has pulled yet."""
    facts = {**training, "architecture": "mobilenetv2_100"}
    here = serve(hub, export_backbone(random_backbone("mobilenetv2_100"), tmp_path / "one", facts), "acme/one")
    facts["spd_weight"] = 0
    other = serve(hub, export_backbone(random_backbone("mobilenetv2_100"), tmp_path / "two", facts), "acme/two")
    catalog = tmp_path / "own.json"
    catalog.write_text(json.dumps({"schema": 1, "rows": [asdict(here), asdict(other)]}))
    return catalog


@pytest.mark.slow
def test_two_processes_pull_at_once_and_then_nothing_needs_the_network(
    hub: HubServer, catalog: Path, tmp_path: Path, run_python: RunPython
) -> None:
    hub.fault = faults = Faults("GET", WEIGHTS, drip(1_000_000, 0.1), times=2)
    home = {"HF_HOME": str(tmp_path / "hf"), "SPD_WEIGHTS_CATALOG": str(catalog)}
    pull = [sys.executable, "-m", "spd_weights", "pull", _NAME]
    both = [subprocess.Popen(pull, env=os.environ | home, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert faults.seen == 1  # the second waited for the first
    code = f"""
import socket, sys
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import timm, spd_weights
from spd_weights.cli import main
assert main(["list"]) == 0
for options in ({{}}, {{"features_only": True}}, {{"num_classes": 3}}):
    timm.create_model({_NAME!r}, pretrained=True, **options)
assert main(["pull", {_NAME!r}]) == main(["verify", {_NAME!r}]) == 0
assert main(["pull", {_NAME + "_eta0"!r}]) == 2
"""
    hub.requests.clear()
    done = run_python("-c", code, **home, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []
    assert "HF_HUB_OFFLINE is set; on a machine with a connection run hf download acme/two --revision " in done.stderr
    assert "Traceback" not in done.stderr


_MOUNTS = ["unshare", "--map-root-user", "--mount"]


def _may_mount() -> bool:
    try:
        return subprocess.run([*_MOUNTS, "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="needs a Linux that lets users mount a tmpfs (unshare --map-root-user)")
def test_full_and_read_only_disks_leave_the_cache_usable(hub: HubServer, catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    code = f"""
import subprocess, sys
def mount(*options): subprocess.run(["mount", *options, {str(tmp_path / "small")!r}], check=True)
mount("-t", "tmpfs", "-o", "size=4m", "tmpfs")
import timm, spd_weights
from spd_weights.cli import main
names = {_NAME!r}, {_NAME + "_eta0"!r}
print("full:", file=sys.stderr)
assert main(["pull", names[0]]) == 2
mount("-o", "remount,size=64m")
assert main(["pull", names[0]]) == 0
mount("-o", "remount,ro")
assert main(["pull", names[0]]) == main(["verify", names[0]]) == 0
timm.create_model(names[0], pretrained=True)
print("read-only:", file=sys.stderr)
assert main(["pull", names[1]]) == 2
assert main(["doctor"]) in (0, 1)
"""
    variables = {**os.environ, "HF_HOME": str(tmp_path / "small"), "SPD_WEIGHTS_CATALOG": str(catalog)}
    command = [*_MOUNTS, sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    full, _, read_only = done.stderr.partition("read-only:")
    assert "free some space, or set HF_HOME to another disk" in full
    assert "cached weights still load, to add more set HF_HOME" in read_only
    assert "Traceback" not in done.stderr
    assert "read-only: cached weights load, none can be added" in done.stdout
