"""One Hub on loopback for the whole run: set before anything imports timm, so that no test reaches another."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests.hub.server import HubServer
from tests.hub.store import Store

_ROOT = tempfile.TemporaryDirectory(prefix="spd-tests-")
_HUB = HubServer(Path(_ROOT.name, "hub")).__enter__()
atexit.register(_ROOT.cleanup)
os.environ.update(_HUB.environment(), HF_HOME=str(Path(_ROOT.name, "hf")), HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] = "1"  # its own attempts take a minute
os.environ.pop("SPD_WEIGHTS_CATALOG", None)
# One thread for each of pytest's workers: OpenMP's threads spin while they wait and would take each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and children inherit it: the processes that tests interrupt would not end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# hypothesis fails an example that takes 0.2 s, which says how busy the machine is and nothing about the code.
hypothesis.settings.register_profile("spd-weights", deadline=None)
hypothesis.settings.load_profile("spd-weights")

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path) -> HubServer:
    """The running Hub: empty, no request so far, no fault."""
    _HUB.store = Store(tmp_path / "hub")
    _HUB.requests.clear()
    _HUB.fault = _HUB.xet = None
    return _HUB


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a process of its own with an empty Hub cache: `run_python("-c", code, **environment)`."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, *arguments], env=variables, capture_output=True, text=True, timeout=300, check=False
        )

    return run
